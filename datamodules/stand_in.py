"""What a dataset says and raises when its phantom stands in for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datamodules.case import DataError, Problem
from datamodules.parallel import console


def tell(folder: Path, dataset: str) -> None:
    """Say on screen that there is no root and that the phantom is used."""
    console.print(
        f"No DATA_ROOT given: using the phantom in {folder}. It has {dataset}'s layout, it is not "
        f"{dataset}.",
        style="yellow",
        markup=False,
        highlight=False,
    )


@contextmanager
def phantom_errors(folder: Path) -> Iterator[None]:
    """Turn what writing the phantom raises into a DataError that says the way out."""
    try:
        yield
    except (ValueError, OSError) as error:
        rule = "the phantom must be there or writable"
        found = (isinstance(error, OSError) and error.strerror) or str(error)
        fix = "Choose another folder with --data.init_args.phantom_root, or remove this one."
        raise DataError([Problem("", str(folder), rule, found, fix)]) from error
