"""Reusable buffers for code that processes voxels in chunks."""

from math import prod

import torch
from torch import Tensor


class Scratch:
    """Named buffers that grow as needed; they are contiguous and not cleared.

    Page faults on a fresh megabyte cost more than writing to it. Most chunks have the same length,
    so views are cached.

    Args:
        device: Device of the buffers.
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
