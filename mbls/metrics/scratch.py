"""Memory that is used again for each piece of voxels."""

from math import prod

import torch
from torch import Tensor


class Scratch:
    """Named buffers that grow as needed and are handed out contiguous, with old content.

    Fresh memory of a megabyte costs more, page by page, than what is written to it.

    Args:
        device: Where the buffers live.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return the buffer ``name`` in ``shape``; the next call of that name overwrites it."""
        size = prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size or buffer.dtype != dtype:
            buffer = torch.empty(size, dtype=dtype, device=self.device)
            self._buffers[name] = buffer
        return buffer[:size].view(shape)
