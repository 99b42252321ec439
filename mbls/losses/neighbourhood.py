"""Class proportions in each voxel's neighbourhood, in any number of dimensions."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Border", "Kernel", "box_shares", "gaussian_shares", "neighbour_proportions"]

Kernel = Literal["mean", "gaussian"]
Border = Literal["replicate", "background", "monai"]


def neighbour_proportions(
    target: Tensor,
    num_classes: int,
    *,
    kernel: Kernel = "mean",
    kernel_size: int = 3,
    sigma: float = 1.0,
    border: Border = "replicate",
    ignore_index: int = -100,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    r"""Return the weighted share of each class in the window around each voxel.

    ``"mean"`` weighs the voxels of the window equally. ``"gaussian"`` gives half the weight to the
    voxel itself and spreads the other half over its neighbours as a Gaussian does (SVLS). Ignored
    voxels leave the window, and the weights of the rest are scaled up to the same sum.

    Borders: ``"replicate"`` repeats the labels at the edge; ``"background"`` puts label 0 outside,
    as the published NACL does; ``"monai"`` puts no class outside, so that the shares at an edge sum
    to less than 1, and takes MONAI's Gaussian: integrated over voxels, cut at 4 sigma whatever
    ``kernel_size`` is, the voxel itself not singled out.

    Args:
        target: Labels ``(N, *S)``, int64; without spatial axes a voxel is its own window.
        num_classes: C.
        kernel: How the window is weighed.
        kernel_size: Odd width of the window in voxels.
        sigma: Standard deviation of the Gaussian in voxels.
        border: What lies outside the image.
        ignore_index: The label of voxels that leave every window.
        dtype: Of the result.

    Returns:
        ``(N, C, *S)``, no gradient; zero where the whole window is ignored.

    Example:
        >>> labels = torch.tensor([[0, 0, 1, 1]])
        >>> neighbour_proportions(labels, 2)[0, 1]
        tensor([0.0000, 0.3333, 0.6667, 1.0000])
    """
    nowhere, ignored = num_classes, num_classes + 1
    small = torch.int16 if num_classes > 125 else torch.int8
    gone = target == ignore_index
    labels = target.to(small) * ~gone + gone * ignored  # faster than a masked fill
    if kernel == "gaussian" and border == "monai":
        weights = erf_weights(sigma)
        radius = len(weights) // 2
    else:
        weights = gaussian_weights(sigma, kernel_size)
        radius = kernel_size // 2
    labels = pad_labels(labels, radius, "edge" if border == "replicate" else
                        0 if border == "background" else nowhere)  # fmt: skip

    def shares(maps: Tensor) -> Tensor:
        if kernel == "mean":
            return box_shares(maps, kernel_size, dtype)
        if border == "monai":
            return filter_axes(maps.to(dtype), weights)
        return gaussian_shares(maps, weights, dtype)

    classes = torch.arange(num_classes, dtype=small, device=labels.device)
    found = shares(labels.unsqueeze(1) == classes.view(-1, *[1] * (labels.ndim - 1)))
    kept = shares((labels == ignored).unsqueeze(1)).neg_().add_(1)
    return found.div_(kept.clamp_min_(1e-6))  # 0 / 1e-6 where the whole window is ignored


def box_shares(maps: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Average over the ``size``-wide box; counted in bytes where they suffice.

    Args:
        maps: Bool ``(N, K, *P)``, padded by ``size // 2`` on every side.
        size: Odd width.
        dtype: Of the result.

    Returns:
        ``(N, K, *S)`` with S = P - size + 1.
    """
    window = size ** (maps.ndim - 2)
    counts = maps.to(torch.uint8 if window < 256 else torch.int32)
    return filter_axes(counts, [1] * size).to(dtype).div_(window)


def gaussian_shares(maps: Tensor, weights: Sequence[float], dtype: torch.dtype) -> Tensor:
    """Weigh the voxel itself by 1/2 and its neighbours by a Gaussian that sums to 1/2.

    Args:
        maps: Bool ``(N, K, *P)``, padded by half the width of ``weights``.
        weights: The Gaussian along one axis, sum 1, odd length.
        dtype: Of the result.

    Returns:
        ``(N, K, *S)``.
    """
    radius, dims = len(weights) // 2, maps.ndim - 2
    maps = maps.to(dtype)
    own = maps
    for axis in range(2, maps.ndim):
        own = own.narrow(axis, radius, own.shape[axis] - 2 * radius)
    centre = weights[radius] ** dims
    if centre == 1:  # no neighbours
        return own.clone()
    scale = 0.5 / (1 - centre)
    return filter_axes(maps, weights).mul_(scale).add_(own, alpha=0.5 - scale * centre)


def filter_axes(maps: Tensor, weights: Sequence[float]) -> Tensor:
    """Filter ``(N, K, *P)`` along each spatial axis with the same odd-length weights."""
    if maps.ndim == 2:
        return maps.clone()
    for axis in range(2, maps.ndim):
        length = maps.shape[axis] - len(weights) + 1
        total = maps.narrow(axis, 0, length) * weights[0]
        for shift, weight in enumerate(weights[1:], start=1):
            total = total.add_(maps.narrow(axis, shift, length), alpha=weight)
        maps = total
    return maps


def pad_labels(labels: Tensor, radius: int, outside: int | Literal["edge"]) -> Tensor:
    """Extend ``(N, *S)`` by ``radius`` voxels on every side, with a label or the edge's own."""
    for axis in range(1, labels.ndim):
        shape = list(labels.shape)
        shape[axis] = radius
        if outside == "edge":
            first = labels.narrow(axis, 0, 1).expand(shape)
            last = labels.narrow(axis, -1, 1).expand(shape)
        else:
            first = last = labels.new_full(shape, outside)
        labels = torch.cat((first, labels, last), dim=axis)
    return labels


def gaussian_weights(sigma: float, size: int) -> list[float]:
    """Sample a Gaussian at ``size`` voxel centres; the weights sum to 1."""
    raw = [math.exp(-((place - size // 2) ** 2) / (2 * sigma**2)) for place in range(size)]
    return [weight / math.fsum(raw) for weight in raw]


def erf_weights(sigma: float) -> list[float]:
    """Integrate a Gaussian over voxels up to 4 sigma, not rescaled, as MONAI does."""
    radius = int(4 * sigma + 0.5)
    edges = [(place - 0.5) / (sigma * math.sqrt(2)) for place in range(-radius, radius + 2)]
    return [(math.erf(high) - math.erf(low)) / 2 for low, high in itertools.pairwise(edges)]
