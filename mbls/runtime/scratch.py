"""Memory that is used again for each piece of voxels, by metrics and losses."""

from math import prod

import torch
from torch import Tensor


class Scratch:
    """Named buffers that grow as needed and are handed out contiguous, with old content.

    Fresh memory of a megabyte costs more, page by page, than what is written to it; and since most
    pieces have one length, a view is made once for all of them.

    Args:
        device: Where the buffers live.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._buffers: dict[str, Tensor] = {}
        self._views: dict[tuple[str, torch.dtype, tuple[int, ...]], Tensor] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return the buffer ``name`` in ``shape``; the next call of that name overwrites it."""
        view = self._views.get((name, dtype, shape))
        if view is None:
            view = self._views[name, dtype, shape] = self._view(name, shape, dtype)
        return view

    def _view(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size = prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size or buffer.dtype != dtype:
            buffer = torch.empty(size, dtype=dtype, device=self.device)
            self._buffers[name] = buffer
            self._views = {key: view for key, view in self._views.items() if key[0] != name}
        return buffer[:size].view(shape)
