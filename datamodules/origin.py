"""Origin of the data, real or phantom, by the file ``phantom.json`` of every phantom."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from datamodules.case import Case, DataError, Problem
from datamodules.parallel import console


def phantom_notice(folder: Path, dataset: str) -> None:
    """Print that there is no data root and the phantom is used."""
    text = f"It has {dataset}'s layout, it is not {dataset}."
    console.print(
        f"No DATA_ROOT given: using the phantom in {folder}. {text}",
        style="yellow",
        markup=False,
        highlight=False,
    )


@contextmanager
def phantom_errors(folder: Path) -> Iterator[None]:
    """Turn what writing the phantom raises into a DataError with the way out."""
    try:
        yield
    except DataError:
        raise
    except (ValueError, OSError) as error:
        rule = "the phantom must be there or writable"
        found = (isinstance(error, OSError) and error.strerror) or str(error)
        fix = "Choose another folder with --data.init_args.phantom_root, or remove this one."
        raise DataError([Problem("", str(folder), rule, found, fix)]) from error


def phantom_home(path: Path) -> Path | None:
    """Return the nearest folder with ``phantom.json`` at or above ``path``, or None.

    Symlinks are followed.
    """
    ways = (path.absolute(), Path(os.path.realpath(path)))
    folders = (folder for way in ways for folder in (way, *way.parents))
    return next((folder for folder in folders if (folder / "phantom.json").is_file()), None)


def origin_of(path: Path) -> Literal["real", "phantom"]:
    """Return ``"phantom"`` if ``path`` is in a phantom's folder, else ``"real"``."""
    return "real" if phantom_home(path) is None else "phantom"


def refuse_hidden_phantom(root: Path, cases: Iterable[Case]) -> None:
    """Raise DataError if a case is from a phantom but ``root`` is not its folder.

    It would pass for real data.
    """
    if phantom_home(root) is not None:
        return
    images = [case.images[0] for case in cases]
    places = {*images, *(Path(os.path.realpath(image)) for image in images)}
    for folder in sorted({place.parent for place in places}):
        inside = phantom_home(folder)
        if inside is not None:
            rule = "a phantom must be given by its own folder, and alone"
            fix = f"Give {inside} (DATA_ROOT), or move it away."
            raise DataError([Problem("", str(root), rule, f"one in {inside}", fix)])
