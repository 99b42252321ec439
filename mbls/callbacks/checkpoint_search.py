"""Find and validate the checkpoints of a run folder."""

from pathlib import Path
from typing import Any

from mbls.callbacks.checkpoint_files import load
from mbls.runtime.errors import CheckpointError

__all__ = ["find_checkpoint", "has_checkpoint", "last_checkpoint", "read_checkpoint"]


def find_checkpoint(folder: Path, which: str = "best") -> Path:
    """Return a checkpoint of a run folder: ``best``, ``last``, or a file.

    Raises:
        CheckpointError: It does not exist; the message lists those that do.
    """
    if which.endswith(".ckpt"):
        path = Path(which)
        found = path if path.is_file() else folder / "checkpoints" / path
    else:
        found = _path(folder, which)
    if not found.is_file():
        there = sorted(p.stem for p in (folder / "checkpoints").glob("*.ckpt"))
        raise CheckpointError(
            f"No checkpoint {which!r} for run {folder}. "
            + (f"There are: {', '.join(there)}." if there else "Its checkpoints/ is empty.")
        )
    return found


def read_checkpoint(
    path: Path, *, way_out: str = " Use another checkpoint of the run."
) -> dict[str, Any]:
    """Read a checkpoint of mbls with :func:`~mbls.callbacks.checkpoint_files.load`.

    Args:
        path: The file.
        way_out: Advice that is appended to the error message.

    Raises:
        CheckpointError: The file cannot be read safely, or was not written by mbls.
    """
    content = load(path, way_out=way_out)
    if not isinstance(content, dict) or not isinstance(content.get("mbls"), dict):
        raise CheckpointError(
            f"{path} was not written by mbls: its 'mbls' entry is missing. Use a file from a run "
            "folder's checkpoints/."
        )
    return content


def has_checkpoint(folder: Path) -> bool:
    """Return True if a run folder has a checkpoint to resume from, valid or damaged."""
    return any(_path(folder, name).exists() for name in ("last", "previous"))


def last_checkpoint(folder: Path) -> tuple[Path, str | None]:
    """Return the checkpoint to resume from, and the error of ``last`` if it is ``previous``.

    ``best`` is not a candidate: it may be old, and was written before its epoch was logged and its
    schedulers had stepped.

    Raises:
        CheckpointError: Neither ``last`` nor ``previous`` can be read.
    """
    faults = []
    for name in ("last", "previous"):
        try:
            path = find_checkpoint(folder, name)
            read_checkpoint(path, way_out="")
        except CheckpointError as error:
            faults.append(str(error))
        else:
            return path, " ".join(faults) or None
    damaged = [name for name in ("last", "previous") if _path(folder, name).exists()]
    raise CheckpointError(
        f"{' '.join(faults)} The run cannot be resumed. {_use_of_best(folder)}To restart it in "
        f"its folder, remove {' and '.join(f'{name}.ckpt' for name in damaged)}."
    )


def _use_of_best(folder: Path) -> str:
    try:
        read_checkpoint(_path(folder, "best"))
    except CheckpointError:
        return ""
    return (
        "Its best.ckpt is valid for testing (make evaluate RUN=FOLDER, mbls evaluate FOLDER) and "
        "prediction, but not for resuming, since it was written before the end of its epoch. "
    )


def _path(folder: Path, name: str) -> Path:
    return folder / "checkpoints" / f"{name}.ckpt"
