"""How checkpoint files are written and read: whole or not at all, and never as code."""

from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from mbls.runtime.errors import CheckpointError
from mbls.runtime.files import replacing, writing

__all__ = ["PlainCheckpointIO", "load"]


def load(path: str | Path, *, map_location: Any = "cpu", way_out: str = "") -> Any:
    """Read a file of ``torch.save`` whose bytes are those that were written, and run no code.

    ``torch.load`` alone does not compare the checksums (CRC-32) that such a file has for each
    tensor: a bit that a faulty disk has flipped would be a wrong weight.

    Args:
        path: The file.
        map_location: Where its tensors come, as ``torch.load`` has it.
        way_out: What the message says to do where it cannot be read.

    Raises:
        CheckpointError: It is truncated or damaged, no checkpoint, or holds more than tensors and
            plain values.
    """
    try:
        with ZipFile(path) as file:
            if (damaged := file.testzip()) is not None:
                raise BadZipFile(f"{damaged} changed since it was written: a faulty disk?")
        return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # RuntimeError, pickle's, zipfile's, zlib's and the system's errors
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({reason}). It is truncated or damaged, not a "
            f"checkpoint, or holds more than tensors.{way_out}"
        ) from error


class PlainCheckpointIO(TorchCheckpointIO):
    """Write beside the place and rename, down to the disk; read tensors and plain values alone.

    Lightning's own keeps the whole file in memory and goes through the folder of temporary files,
    which may be on another disk and fill up, and reads pickles where it is asked to.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            OutputError: It cannot be written; what was there is still there.
        """
        with writing(Path(path)):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(Path(path)) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch, of a file that refused to be written
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = lambda storage, loc: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint as :func:`load` does, always with ``weights_only=True``."""
        content: dict[str, Any] = load(path, map_location=map_location)
        return content
