"""How checkpoint files are written and read: whole or not at all, and never as code."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from mbls.files import replacing, writing

__all__ = ["PlainCheckpointIO"]


class PlainCheckpointIO(TorchCheckpointIO):
    """Write beside the place and rename, down to the disk; read tensors and plain values alone.

    Lightning's own holds the whole file in memory and goes through the folder of temporary files,
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
        """Read a checkpoint with ``weights_only=True``, whatever is asked for."""
        return torch.load(path, map_location=map_location, weights_only=True)
