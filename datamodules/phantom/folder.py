"""A phantom's folder: written beside its place and moved there when it is complete."""

from __future__ import annotations

import errno
import glob
import json
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import nibabel as nib
import numpy as np

from datamodules.cache.leftovers import clear_leftovers
from datamodules.parallel import in_parallel

Order = TypeVar("Order")


def check_arguments(seed: int, workers: int | None) -> None:
    """Raise ValueError if ``seed`` or ``workers`` is out of range."""
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed}.")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be >= 1 or None, got {workers}.")


def write_folder(
    root: Path,
    orders: Sequence[Order],
    write: Callable[[Path, Order], None],
    *,
    card: Mapping[str, Any],
    split: Mapping[str, Sequence[str]],
    extra: Mapping[str, str] | None = None,
    title: str,
    workers: int | None,
    progress: bool,
) -> None:
    """Write a phantom to ``root``, or leave it alone if it is there with the same card.

    The files are written beside ``root`` and moved there at the end, so that what an
    interruption leaves is never taken for a phantom.

    Args:
        root: Folder to write.
        orders: What to write, one item a patient.
        write: Writes an item into the folder given; called from several threads at once.
        card: Content of ``phantom.json``: the mark of a phantom, and all that its files depend on.
        split: Content of ``split.json``.
        extra: Text of further files by their path in the folder.
        title: What the progress bar says.
        workers: Threads; None takes one for each usable core. The work is in numpy and in zlib,
            which release Python's lock, and processes would each import torch again.
        progress: Whether to show the bar.

    Raises:
        ValueError: ``root`` holds a phantom of other settings.
        FileExistsError: ``root`` holds something else, or is a file.
        OSError: ``root`` cannot be written (permission, disk full); the message names it.
    """
    part = root.with_name(f".{root.name}.partial-{uuid.uuid4().hex[:12]}")
    try:
        clear_leftovers(root.parent, f".{glob.escape(root.name)}.partial-*")
        if _is_written(root, card):
            return
        part.mkdir(parents=True)
        work = partial(write, part)
        for _ in in_parallel(work, orders, workers=workers, description=title, progress=progress):
            pass
        for name, text in (extra or {}).items():
            (part / name).write_text(text)
        (part / "split.json").write_text(json.dumps(split, indent=1) + "\n")
        (part / "phantom.json").write_text(json.dumps(card, indent=1) + "\n")
        _move(part, root, card)
    except OSError as error:
        if isinstance(error, FileExistsError):
            raise
        hint = ". Free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        reason = error.strerror or str(error)
        raise OSError(
            error.errno, f"The phantom cannot be written: {reason}{hint}", str(root)
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _is_written(root: Path, card: Mapping[str, Any]) -> bool:
    """Return whether ``root`` is the phantom of ``card``; raise if it is anything else."""
    if not root.exists():
        return False
    if root.is_dir() and not any(root.iterdir()):
        return False
    try:
        found = dict(json.loads((root / "phantom.json").read_text()))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        raise FileExistsError(
            errno.EEXIST, "Not a phantom, and not overwritten; name another folder", str(root)
        ) from None
    if found == card:
        return True
    other = [key for key in card if found.get(key) != card[key]]
    if other == ["settings"]:
        old, new = found["settings"], card["settings"]
        other = [key for key in new if old.get(key) != new[key]]
    raise ValueError(
        f"{root} holds a phantom with other {', '.join(other) or 'contents'}. "
        f"Delete it, or name another folder."
    )


def _move(part: Path, root: Path, card: Mapping[str, Any]) -> None:
    """Rename ``part`` to ``root``, unless another process has just put the same there."""
    try:
        part.rename(root)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not _is_written(root, card):
            raise


def save_nifti(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    """Write ``data`` with ``affine`` as sform and as qform."""
    header = nib.Nifti1Header()
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    header.set_xyzt_units("mm", "sec")
    header.set_qform(affine, code=1)
    header.set_sform(affine, code=1)
    nib.save(nib.Nifti1Image(data, None, header), path)


def chosen(fraction: float, among: Sequence[int], rng: np.random.Generator) -> set[int]:
    """Return a random share of ``among``; always the same number of draws."""
    shuffled = rng.permutation(np.asarray(among, dtype=int))
    return set(shuffled[: round(fraction * len(among))].tolist())
