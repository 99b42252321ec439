"""Cuts a patch out of a slice or a volume, as it is or mirrored."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from datamodules.memory import empty
from datamodules.reading.checks import IGNORED

Where = tuple[float, float]  # position of the patch on each axis, from 0 to 1; 0.5 is the centre
CENTER: Where = (0.5, 0.5)
Pair = tuple[Tensor, Tensor]  # a patch: float32 image (M, *size) and uint8 label (*size,)


def empty_pair(channels: int, size: Sequence[int]) -> Pair:
    """Return memory for a patch."""
    return empty((channels, *size), torch.float32), empty(tuple(size), torch.uint8)


def patch_begin(length: int, wanted: int, share: float) -> int:
    """Return the first pixel of a patch on an axis of a slice; negative where the patch is padded.

    Args:
        length: Pixels of the slice.
        wanted: Pixels of the patch.
        share: Position of the patch, from 0 (first pixels) to 1 (last pixels); 0.5 is the centre,
            rounded down. Padding is the same on both sides, whatever the position.
    """
    spare = length - wanted
    if spare <= 0:
        return -(-spare // 2)
    return spare // 2 if share == 0.5 else min(int(share * (spare + 1)), spare)


@lru_cache(maxsize=256)
def centred(lengths: tuple[int, ...], size: tuple[int, ...]) -> tuple[int, ...]:
    """Return the first pixel on each axis of a patch in the middle of a slice."""
    return tuple(patch_begin(n, m, 0.5) for n, m in zip(lengths, size, strict=True))


def begin_around(length: int, wanted: int, voxel: int) -> int:
    """Return the first voxel of a patch with ``voxel`` in its middle, or as near as may be."""
    spare = length - wanted
    if spare <= 0:
        return -(-spare // 2)
    return min(max(voxel - wanted // 2, 0), spare)


def cut_patch(
    pixels: np.ndarray, classes: np.ndarray, size: Sequence[int], where: Sequence[float] = CENTER
) -> Pair:
    """Crop or pad a slice or volume to ``size``; padding is 0 in the image, ignored in the label.

    Args:
        pixels: ``(M, *S)``, any float type.
        classes: uint8 ``(*S,)``, 255 for ignored voxels.
        size: Size of the patch on each axis.
        where: Position of the patch on each axis.

    Returns:
        float32 ``(M, *size)`` and uint8 ``(*size,)``.
    """
    begin = [patch_begin(n, m, s) for n, m, s in zip(classes.shape, size, where, strict=True)]
    return cut_at(pixels, classes, begin, empty_pair(len(pixels), size))


def cut_at(
    pixels: np.ndarray,
    classes: np.ndarray,
    begin: Sequence[int],
    out: Pair,
    *,
    mirror: Sequence[int] = (),
) -> Pair:
    """Crop or pad from the voxel ``begin`` on; reads nothing else of mapped arrays.

    Values are widened on their way into ``out``, once.

    Args:
        pixels: As for :func:`cut_patch`; writable, as torch wants it.
        classes: As for :func:`cut_patch`.
        begin: First voxel on each axis; negative where the patch is padded in front.
        out: Where image and label are written: float32 ``(M, *size)`` and uint8 ``(*size,)``.
        mirror: Axes on which the patch is mirrored.

    Returns:
        ``out``.
    """
    image, label = out
    source, target = _overlap(tuple(begin), tuple(label.shape), classes.shape, tuple(mirror))
    read, labels = pixels[(slice(None), *source)], classes[source]
    if mirror:
        read = np.flip(read, tuple(axis + 1 for axis in mirror)).copy()
        labels = np.flip(labels, tuple(mirror)).copy()
    if target is not None:
        image.zero_()
        label.fill_(IGNORED)
        image, label = image[(slice(None), *target)], label[target]
    image.copy_(torch.from_numpy(read))
    label.copy_(torch.from_numpy(labels))
    return out


@lru_cache(maxsize=256)
def _overlap(
    begin: tuple[int, ...], size: tuple[int, ...], lengths: tuple[int, ...], mirror: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...] | None]:
    """Return what of an array is in a patch, and where in the patch; None for all of it."""
    source, target = [], []
    for axis, (first, wanted, length) in enumerate(zip(begin, size, lengths, strict=True)):
        low, high = max(first, 0), min(first + wanted, length)
        source.append(slice(low, high))
        low, high = low - first, high - first
        target.append(slice(wanted - high, wanted - low) if axis in mirror else slice(low, high))
    whole = all(part == slice(0, wanted) for part, wanted in zip(target, size, strict=True))
    return tuple(source), None if whole else tuple(target)
