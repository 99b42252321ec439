"""Class proportions and borders in each voxel's neighborhood, in any number of dimensions."""

import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mbls.losses._checks import is_readable
from mbls.losses._masking import labeled

__all__ = ["Border", "Kernel", "Neighborhood", "mixed_windows", "neighbor_proportions"]

Kernel = Literal["mean", "gaussian"]
Border = Literal["replicate", "background", "monai"]

CPU_CHUNK = 1 << 21  # voxels times classes counted at once: few enough for a cache to help
DEVICE_CHUNK = 1 << 26


def neighbor_proportions(
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
    voxel itself and spreads the other half over its neighbors as a Gaussian does (SVLS). Ignored
    voxels leave the window, and the weights of the rest are scaled up to the same sum.

    Borders: ``"replicate"`` repeats the labels at the edge; ``"background"`` puts label 0 outside,
    as the published NACL does; ``"monai"`` pads with no class, so the shares at an edge sum
    to less than 1, and uses MONAI's Gaussian: integrated over voxels, cut at 4 sigma for any
    ``kernel_size`` is, the voxel itself not singled out.

    Args:
        target: Labels ``(N, *S)``, int64, or soft labels ``(N, C, *S)``, floating; without spatial
            axes a voxel is its own window.
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
        >>> neighbor_proportions(labels, 2)[0, 1]
        tensor([0.0000, 0.3333, 0.6667, 1.0000])
    """
    window = Neighborhood(kernel, kernel_size, sigma, border, ignore_index)
    return window.shares(target, num_classes, dtype)


@dataclass(frozen=True)
class Neighborhood:
    """The windows of :func:`neighbor_proportions`, settings alone.

    Args:
        kernel: How the window is weighed.
        size: Odd width of the window in voxels.
        sigma: Standard deviation of the Gaussian in voxels.
        border: What lies outside the image.
        ignore_index: The label of voxels that leave every window.
    """

    kernel: Kernel = "mean"
    size: int = 3
    sigma: float = 1.0
    border: Border = "replicate"
    ignore_index: int = -100

    def shares(self, target: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
        """Return :func:`neighbor_proportions`; some images and classes are counted at a time."""
        if target.is_floating_point():
            return self._soft_shares(target.to(dtype))
        shape = (target.shape[0], num_classes, *target.shape[1:])
        shares = torch.empty(shape, dtype=dtype, device=target.device)
        if not target.numel():  # an edge that is not there cannot be repeated
            return shares
        nowhere, ignored = num_classes, num_classes + 1
        small = torch.uint8 if ignored < 256 else torch.int16
        gone = target == self.ignore_index
        some_gone = not is_readable(gone) or bool(gone.any())
        labels = target.to(small)
        if some_gone:
            labels.masked_fill_(gone, ignored)
        window = self._window(target.ndim - 1)
        outside: dict[Border, int | None] = {"replicate": None, "background": 0, "monai": nowhere}
        labels = pad_labels(labels, len(window.ratios), outside[self.border]).unsqueeze(1)
        classes = torch.arange(ignored + 1, dtype=small, device=labels.device)
        classes = classes.view(-1, *[1] * (target.ndim - 1))
        size = _chunk(labels)
        for images in _slices(target.shape[0], size // num_classes):
            kept: Tensor | float = window.total
            if some_gone:
                kept = kept - window.weigh(labels[images], classes[ignored:], dtype).to(dtype)
                kept.clamp_min_(1e-6)  # 0 / 1e-6 where the whole window is ignored
            for some in _slices(num_classes, size):
                found = window.weigh(labels[images], classes[some], dtype)
                shares[images, some] = found.to(dtype).div_(kept)
        return shares

    def _soft_shares(self, target: Tensor) -> Tensor:
        """Return the weighted means of the windows' soft labels ``(N, C, *S)``."""
        keep, maps = labeled(target, self.ignore_index)
        if not maps.numel():
            return maps
        window = self._window(maps.ndim - 2)
        radius, repeats = len(window.ratios), self.border == "replicate"
        padded = pad_labels(maps.flatten(0, 1), radius, None if repeats else 0)
        padded = padded.unflatten(0, maps.shape[:2])
        if self.border == "background":
            padded[:, 0] = pad_labels(maps[:, 0], radius, 1)
        gone = pad_labels(~keep, radius, None if repeats else 0).unsqueeze(1).to(maps.dtype)
        kept = (window.total - window.sums(gone)).clamp_min(1e-6)
        return window.sums(padded) / kept

    def _window(self, dims: int) -> "Window":
        if self.kernel == "mean":
            return Window([1] * (self.size // 2), 1, self.size**dims)
        if self.border == "monai":
            own, *others = erf_weights(self.sigma)
            return Window([weight / own for weight in others], 1, own**-dims)
        steps = range(1, self.size // 2 + 1)
        ratios = [math.exp(-((step / self.sigma) ** 2) / 2) for step in steps]
        around = math.expm1(dims * math.log1p(2 * math.fsum(ratios)))
        return Window(ratios, 1 / around, 2) if around else Window(ratios, 0, 1)


@dataclass(frozen=True)
class Window:
    """How much the voxels around one count, up to a factor.

    Args:
        ratios: Weights at distance 1, 2, .. along an axis, that of the voxel itself being 1; off
            the axes they multiply.
        spread: Factor of all voxels but the one itself.
        total: Sum of all weights that make a share of 1.
    """

    ratios: Sequence[float]
    spread: float
    total: float

    def weigh(self, labels: Tensor, classes: Tensor, dtype: torch.dtype) -> Tensor:
        """Sum up the weights of each class in the window around each voxel.

        Args:
            labels: ``(n, 1, *P)``, padded by ``len(ratios)`` on every side.
            classes: ``(k, 1, ..)``, with as many axes as the labels but the first.
            dtype: Of the sums, where they are not counts.

        Returns:
            ``(n, k, *S)``; integers where all weights are 1, in bytes if they suffice.
        """
        shape = torch.broadcast_shapes(labels.shape, classes.shape)
        own = torch.eq(labels, classes, out=labels.new_empty(shape, dtype=torch.uint8))
        if any(ratio != 1 for ratio in self.ratios):
            own = own.to(dtype)
        elif self.total > 255:
            own = own.to(torch.int32)
        return self.sums(own)

    def sums(self, own: Tensor) -> Tensor:
        """Return the weighted sums of the windows of maps ``(n, k, *P)``, ``(n, k, *S)``."""
        if not self.ratios:
            return own
        around = None
        for axis in range(2, own.ndim):
            sums = self._neighbor_sums(own if around is None else own + around, axis)
            inside = (axis, len(self.ratios), sums.shape[axis])
            own = own.narrow(*inside)
            around = sums if around is None else sums.add_(around.narrow(*inside))
        if around is None:  # no axes
            return own
        return (around if self.spread == 1 else around.mul_(self.spread)).add_(own)

    def _neighbor_sums(self, maps: Tensor, axis: int) -> Tensor:
        """Return the weighted sums of the neighbors on both sides of each voxel along an axis."""
        radius = len(self.ratios)
        length = maps.shape[axis] - 2 * radius
        total = None
        for step, ratio in enumerate(self.ratios, start=1):
            before, after = (maps.narrow(axis, radius + way * step, length) for way in (-1, 1))
            pair = before + after
            if ratio != 1:
                pair.mul_(ratio)
            total = pair if total is None else total.add_(pair)
        assert total is not None
        return total


def mixed_windows(
    target: Tensor,
    *,
    kernel_size: int = 3,
    border: Border = "replicate",
    ignore_index: int = -100,
) -> Tensor:
    """Return a mask of the voxels whose window has more than one label.

    Labels are compared, not averaged: the published CRaC sums deviations from their mean, which is
    zero but for rounding, and misses a part of the boundary.

    Args:
        target: Labels ``(N, *S)``, int64; without spatial axes no window is mixed.
        kernel_size: Odd width of the window in voxels.
        border: What lies outside the image: ``"replicate"`` the edge's label, ``"background"``
            label 0, which makes foreground at an edge boundary, as published.
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


def _chunk(labels: Tensor) -> int:
    """Return how many maps of the size of one image's labels to count at once."""
    if torch.compiler.is_compiling():
        return sys.maxsize  # the compiler fuses
    numbers = CPU_CHUNK if labels.device.type == "cpu" else DEVICE_CHUNK
    return numbers // max(1, math.prod(labels.shape[1:]))


def _slices(length: int, step: int) -> Iterator[slice]:
    step = max(1, step)
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def pad_labels(labels: Tensor, radius: int, outside: int | None) -> Tensor:
    """Extend ``(N, *S)`` by ``radius`` voxels of a label on every side; None: the edge's own."""
    for axis in range(1, labels.ndim):
        shape = list(labels.shape)
        shape[axis] = radius
        if outside is None:
            first = labels.narrow(axis, 0, 1).expand(shape)
            last = labels.narrow(axis, -1, 1).expand(shape)
        else:
            first = last = labels.new_full(shape, outside)
        labels = torch.cat((first, labels, last), dim=axis)
    return labels


def erf_weights(sigma: float) -> list[float]:
    """Integrate a Gaussian over voxels 0, 1, .. up to 4 sigma, not rescaled, as MONAI does."""
    edges = [(place - 0.5) / (sigma * math.sqrt(2)) for place in range(int(4 * sigma + 0.5) + 2)]
    return [(math.erf(high) - math.erf(low)) / 2 for low, high in itertools.pairwise(edges)]
