"""How checkpoint files are written and read: whole or not at all, and never as code."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from mbls.errors import OutputError
from mbls.files import replace_file, writing

__all__ = ["PlainCheckpointIO"]


class PlainCheckpointIO(TorchCheckpointIO):
    """Write beside the place and rename, down to the disk; read tensors and plain values alone.

    Lightning's own goes through the folder of temporary files, which may be on another disk and
    fill up, and reads pickles where it is asked to.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            OutputError: It cannot be written; what was there is still there.
        """
        content = io.BytesIO()
        try:
            torch.save(checkpoint, content)
        except MemoryError as error:  # on rank 0 alone
            raise OutputError(
                f"{path} cannot be written (no memory left for a copy of the state). What was "
                "written before is whole; a run goes on with make train RUN=FOLDER RESUME=1 (mbls "
                "train --run FOLDER --resume)."
            ) from error
        with writing(Path(path)):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        replace_file(Path(path), content.getbuffer())

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = lambda storage, loc: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint with ``weights_only=True``, whatever is asked for."""
        return torch.load(path, map_location=map_location, weights_only=True)
