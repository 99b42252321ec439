"""Which checkpoint of a run folder is taken, and whether it can be read."""

from pathlib import Path
from typing import Any

from mbls.callbacks.checkpoint_files import load
from mbls.runtime.errors import CheckpointError

__all__ = ["find_checkpoint", "has_checkpoint", "last_checkpoint", "read_checkpoint"]


def find_checkpoint(folder: Path, which: str = "best") -> Path:
    """Return a checkpoint of a run folder: ``best``, ``last``, or a file.

    Raises:
        CheckpointError: There is none; the message lists what there is.
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
            + (f"There are: {', '.join(there)}." if there else "Its checkpoints/ has none.")
        )
    return found


def read_checkpoint(
    path: Path, *, way_out: str = " Take another of the run's checkpoints."
) -> dict[str, Any]:
    """Read a checkpoint as :func:`~mbls.callbacks.checkpoint_files.load` does.

    Args:
        path: The file.
        way_out: What the message says to do where it cannot be read.

    Raises:
        CheckpointError: Not a checkpoint of ours, truncated, damaged, or not to be read safely.
    """
    content = load(path, way_out=way_out)
    if not isinstance(content, dict) or not isinstance(content.get("mbls"), dict):
        raise CheckpointError(
            f"{path} was not written by mbls: its 'mbls' entry is missing. Give a file from a "
            "run folder's checkpoints/."
        )
    return content


def has_checkpoint(folder: Path) -> bool:
    """Return True if a run has saved a state to resume from, intact or damaged."""
    return any(_path(folder, name).exists() for name in ("last", "previous"))


def last_checkpoint(folder: Path) -> tuple[Path, str | None]:
    """Return the checkpoint to resume from, and what is wrong with ``last`` if it is ``previous``.

    ``best`` is none of them: it is of any age, and was written before its epoch was logged and its
    schedulers had stepped, so a run resumed from it would be another.

    Raises:
        CheckpointError: Neither can be read.
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
        f"{' '.join(faults)} So the run cannot be resumed. {_use_of_best(folder)}To start it "
        f"again in its folder, remove {' and '.join(f'{name}.ckpt' for name in damaged)}."
    )


def _use_of_best(folder: Path) -> str:
    try:
        read_checkpoint(_path(folder, "best"))
    except CheckpointError:
        return ""
    return (
        "Its best.ckpt is intact: it can be tested (make evaluate RUN=FOLDER, mbls evaluate "
        "FOLDER) and predicts, but is not the end of an epoch, from which alone training resumes. "
    )


def _path(folder: Path, name: str) -> Path:
    return folder / "checkpoints" / f"{name}.ckpt"
