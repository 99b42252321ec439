"""Cuts a patch out of a slice or a volume, as it is or mirrored."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from datamodules.reading.checks import IGNORED

Pair = tuple[Tensor, Tensor]  # a patch: float32 image (M, *size) and uint8 label ([R,] *size)


def empty(shape: Sequence[int], dtype: DTypeLike) -> Tensor:
    """Return a tensor of any content.

    numpy asks the system for huge pages, which torch does not: a large batch is then there in a
    quarter of the time.
    """
    return torch.from_numpy(np.empty(tuple(shape), dtype))


def empty_pair(channels: int, size: Sequence[int]) -> Pair:
    """Return memory for a patch."""
    return empty((channels, *size), np.float32), empty(size, np.uint8)


def patch_begin(length: int, wanted: int, share: float) -> int:
    """Return the first voxel of a patch on an axis; negative where the patch is padded.

    Args:
        length: Voxels of the slice or volume.
        wanted: Voxels of the patch.
        share: Position of the patch, from 0 (first voxels) to 1 (last voxels); 0.5 is the center,
            rounded down. Padding is the same on both sides for each position.
    """
    spare = length - wanted
    if spare <= 0:
        return -(-spare // 2)
    return spare // 2 if share == 0.5 else min(int(share * (spare + 1)), spare)


def begin_around(length: int, wanted: int, voxel: int) -> int:
    """Return the first voxel of a patch with ``voxel`` in its middle, or as near as may be."""
    spare = length - wanted
    if spare <= 0:
        return -(-spare // 2)
    return min(max(voxel - wanted // 2, 0), spare)


def cut_at(
    pixels: np.ndarray,
    classes: np.ndarray,
    begin: Sequence[int],
    out: Pair,
    *,
    mirror: Sequence[int] = (),
) -> Pair:
    """Crop or pad from the voxel ``begin`` on; padding is 0 in the image, ignored in the label.

    Of mapped arrays nothing else is read.

    Args:
        pixels: ``(M, *S)``, any float type; writable, as torch wants it.
        classes: uint8 ``(*S,)``, 255 for ignored voxels; ``(R, *S)`` of several readers.
        begin: First voxel on each axis; negative where the patch is padded in front.
        out: Where image and label are written: float32 ``(M, *size)`` and uint8 ``(*size,)`` or
            ``(R, *size)``.
        mirror: Axes on which the patch is mirrored.

    Returns:
        ``out``.
    """
    image, label = out
    axes = len(begin)
    size, lengths = tuple(label.shape[-axes:]), classes.shape[-axes:]
    source, target = _overlap(tuple(begin), size, lengths, tuple(mirror))
    read, labels = pixels[source], classes[source]
    if mirror:
        flipped = tuple(axis - axes for axis in mirror)
        read, labels = np.flip(read, flipped).copy(), np.flip(labels, flipped).copy()
    if target is not None:
        image.zero_()
        label.fill_(IGNORED)
        image, label = image[target], label[target]
    image.copy_(torch.from_numpy(read))
    label.copy_(torch.from_numpy(labels))
    return out


@lru_cache(maxsize=256)
def _overlap(
    begin: tuple[int, ...], size: tuple[int, ...], lengths: tuple[int, ...], mirror: tuple[int, ...]
) -> tuple[tuple[Any, ...], tuple[Any, ...] | None]:
    """Return what of an array's last axes is in a patch, and where in the patch; None for all."""
    source, target = [], []
    for axis, (first, wanted, length) in enumerate(zip(begin, size, lengths, strict=True)):
        low, high = max(first, 0), min(first + wanted, length)
        source.append(slice(low, high))
        low, high = low - first, high - first
        target.append(slice(wanted - high, wanted - low) if axis in mirror else slice(low, high))
    whole = all(part == slice(0, wanted) for part, wanted in zip(target, size, strict=True))
    return (..., *source), None if whole else (..., *target)
