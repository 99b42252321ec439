"""Atomic writing and safe reading of checkpoint files."""

from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from mbls.runtime.errors import CheckpointError
from mbls.runtime.files import replacing, writing

__all__ = ["PlainCheckpointIO", "load"]


def load(path: str | Path, *, map_location: Any = "cpu", way_out: str = "") -> Any:
    """Verify the checksums of a file of ``torch.save``, and load it with ``weights_only=True``.

    ``torch.load`` does not verify the CRC-32 of each tensor: a bit flipped by a faulty disk would
    become a wrong weight.

    Args:
        path: The file.
        map_location: See ``torch.load``.
        way_out: Advice that is appended to the error message.

    Raises:
        CheckpointError: The file is truncated, damaged, not a checkpoint, or contains objects
            other than tensors and plain values.
    """
    try:
        with ZipFile(path) as file:
            if (damaged := file.testzip()) is not None:
                raise BadZipFile(f"{damaged} changed since it was written: a faulty disk?")
        return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # errors of torch, pickle, zipfile, zlib and the system
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({reason}). It is truncated, damaged, not a "
            f"checkpoint, or contains more than tensors.{way_out}"
        ) from error


class PlainCheckpointIO(TorchCheckpointIO):
    """Write checkpoints atomically in their own folder; load with ``weights_only=True`` only.

    Lightning's version buffers the file in memory, uses the system's temporary folder, which may
    be on another disk and fill up, and can load pickles.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            OutputError: The file cannot be written; the old one is unchanged.
        """
        with writing(Path(path)):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(Path(path)) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch hides the OSError of a failed write
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = lambda storage, loc: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint with :func:`load`; ``weights_only`` is always True."""
        content: dict[str, Any] = load(path, map_location=map_location)
        return content
