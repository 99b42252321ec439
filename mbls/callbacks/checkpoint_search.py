"""Which checkpoint of a run folder is taken, and whether it can be read."""

from pathlib import Path
from typing import Any

import torch

from mbls.errors import CheckpointError

__all__ = ["find_checkpoint", "has_checkpoint", "last_checkpoint", "read_checkpoint"]


def find_checkpoint(folder: Path, which: str = "best") -> Path:
    """Return a checkpoint of a run folder: ``best``, ``last``, or a file.

    Raises:
        CheckpointError: There is none; the message says what there is.
    """
    if which.endswith(".ckpt"):
        path = Path(which)
        found = path if path.is_file() else folder / "checkpoints" / path
    else:
        found = folder / "checkpoints" / f"{which}.ckpt"
    if not found.is_file():
        there = sorted(p.stem for p in (folder / "checkpoints").glob("*.ckpt"))
        raise CheckpointError(
            f"No checkpoint {which!r} for run {folder}. "
            + (f"There are: {', '.join(there)}." if there else "Its checkpoints/ has none.")
        )
    return found


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running any code from it (``weights_only=True``).

    Raises:
        CheckpointError: Not a checkpoint of ours, truncated, or not to be read safely.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises RuntimeError, pickle's, zipfile's and OS errors
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({reason}). It is truncated, not a "
            "checkpoint, or holds more than tensors; take another of the run's checkpoints."
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("mbls"), dict):
        raise CheckpointError(
            f"{path} was not written by mbls: its 'mbls' entry is missing. Give a file from a "
            "run folder's checkpoints/."
        )
    return content


def has_checkpoint(folder: Path) -> bool:
    """Say whether a run has saved a state to go on from, be it whole or damaged."""
    names = ("last.ckpt", "previous.ckpt")
    return any((folder / "checkpoints" / name).exists() for name in names)


def last_checkpoint(folder: Path) -> tuple[Path, str | None]:
    """Return the checkpoint to go on from, and what is wrong with ``last`` if it is ``previous``.

    Raises:
        CheckpointError: Neither can be read.
    """
    previous = folder / "checkpoints" / "previous.ckpt"
    try:
        last = find_checkpoint(folder, "last")
        read_checkpoint(last)
    except CheckpointError as error:
        if not previous.is_file():
            raise CheckpointError(
                f"{error} There is no previous.ckpt beside it; remove last.ckpt to begin the run "
                "again in its folder."
            ) from error
        read_checkpoint(previous)
        return previous, str(error)
    return last, None
