"""Boundary and inner voxels, by an exact test on the labels."""

from collections.abc import Callable

import torch
from torch import Tensor

from mbls.losses._neighborhood import Border, pad_labels

__all__ = ["mixed_windows"]


def mixed_windows(
    target: Tensor,
    *,
    kernel_size: int = 3,
    border: Border = "replicate",
    ignore_index: int = -100,
) -> Tensor:
    """Return where the window around a voxel holds more than one label.

    Labels are compared, not averaged: the published CRaC sums deviations from their mean, which is
    zero but for rounding, and misses a part of the boundary.

    Args:
        target: Labels ``(N, *S)``, int64; without spatial axes no window is mixed.
        kernel_size: Odd width of the window in voxels.
        border: What lies outside the image: ``"replicate"`` the edge's label, ``"background"``
            label 0, so that foreground at an edge is boundary, as published.
        ignore_index: The label of voxels that leave every window.

    Returns:
        Bool ``(N, *S)``.

    Example:
        >>> mixed_windows(torch.tensor([[0, 0, 0, 1, 1]]))
        tensor([[False, False,  True,  True, False]])
    """
    if not target.numel():
        return target != target
    gone = target == ignore_index
    outside = 0 if border == "background" else None
    narrow = target.to(torch.int16)
    low, high = (
        _extreme(narrow.masked_fill(gone, fill), kernel_size // 2, outside, pick)
        for fill, pick in ((torch.iinfo(torch.int16).max, torch.minimum), (-1, torch.maximum))
    )
    return low < high


def _extreme(
    labels: Tensor, radius: int, outside: int | None, pick: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return the least or the largest label in each window, axis by axis."""
    found = pad_labels(labels, radius, outside)
    for axis in range(1, labels.ndim):
        length = labels.shape[axis]
        best = found.narrow(axis, 0, length)
        for start in range(1, 2 * radius + 1):
            best = pick(best, found.narrow(axis, start, length))
        found = best
    return found
