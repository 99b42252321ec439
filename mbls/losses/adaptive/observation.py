"""The frame of the losses that adapt: sums over a validation, added up over ranks once."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from mbls.losses.base import AdaptiveLoss

__all__ = ["ObservingLoss", "pieces"]

PIECE = 1 << 21  # numbers looked at at once


def pieces(logits: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Cut ``(N, C, V)`` into parts of an image, to limit temporary memory."""
    n, c, v = logits.shape
    step = max(1, PIECE // c)
    for image in range(n):
        for start in range(0, v, step):
            yield slice(image, image + 1), slice(None), slice(start, start + step)


class ObservingLoss(AdaptiveLoss):
    """An adaptive loss that observes by adding float64 sums.

    The sums live from the first case of a validation to :meth:`adapt` and are in no checkpoint: a
    validation that was cut short starts again. What adapts is buffers, which keep their dtype where
    the network is cast to a narrower one.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._sums: Tensor | None = None

    def add_sums(self, sums: Tensor) -> None:
        """Add one case's sums, float64."""
        self._sums = sums if self._sums is None else self._sums + sums

    def take_sums(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Return the sums over all cases of all ranks, and start again; every rank calls it.

        Args:
            shape: Of the sums, for a rank that observed no case.
            device: Device of the result for such a rank.
        """
        sums, self._sums = self._sums, None
        if sums is None:
            sums = torch.zeros(shape, dtype=torch.float64, device=device)
        if _several():
            torch.distributed.all_reduce(sums)
        if not bool(sums.any()):
            self.warn("observed no voxel in this validation: nothing adapts")
        return sums

    def warn(self, what: str) -> None:
        """Warn of what all ranks know, on the first."""
        if not _several() or torch.distributed.get_rank() == 0:
            warnings.warn(f"{type(self).__name__}: {what}.", stacklevel=3)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            device = getattr(self, name).device
            if getattr(self, name).dtype != buffer.dtype:
                setattr(self, name, buffer.to(device))
        return self


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
