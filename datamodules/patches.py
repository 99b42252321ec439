"""Cuts a patch out of a slice or a volume, straight or turned and scaled."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.checks import IGNORED

Where = tuple[float, float]  # position of the patch on each axis, from 0 to 1; 0.5 is the centre
CENTER: Where = (0.5, 0.5)


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


def begin_around(length: int, wanted: int, voxel: int) -> int:
    """Return the first voxel of a patch with ``voxel`` in its middle, or as near as may be."""
    spare = length - wanted
    if spare <= 0:
        return -(-spare // 2)
    return min(max(voxel - wanted // 2, 0), spare)


def cut_patch(
    pixels: np.ndarray, classes: np.ndarray, size: Sequence[int], where: Sequence[float] = CENTER
) -> tuple[Tensor, Tensor]:
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
    return cut_at(pixels, classes, size, begin)


def cut_at(
    pixels: np.ndarray, classes: np.ndarray, size: Sequence[int], begin: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Crop or pad to ``size`` from the voxel ``begin`` on; reads nothing else of mapped arrays.

    Args:
        pixels: As for :func:`cut_patch`.
        classes: As for :func:`cut_patch`.
        size: As for :func:`cut_patch`.
        begin: First voxel on each axis; negative where the patch is padded in front.

    Returns:
        As :func:`cut_patch`.
    """
    source, target = [], []
    for length, wanted, first in zip(classes.shape, size, begin, strict=True):
        part = slice(max(first, 0), min(first + wanted, length))
        source.append(part)
        target.append(slice(part.start - first, part.stop - first))
    shape = tuple(size)
    if all(part.stop - part.start == n for part, n in zip(source, shape, strict=True)):
        return _copied(pixels[(slice(None), *source)]).float(), _copied(classes[(*source,)])
    image = np.zeros((pixels.shape[0], *shape), dtype=np.float32)
    label = np.full(shape, IGNORED, dtype=np.uint8)
    image[(slice(None), *target)] = pixels[(slice(None), *source)]
    label[(*target,)] = classes[(*source,)]
    return torch.from_numpy(image), torch.from_numpy(label)


def turned_patch(
    pixels: np.ndarray,
    classes: np.ndarray,
    size: tuple[int, int],
    where: Where = CENTER,
    *,
    angle: float,
    factor: float,
) -> tuple[Tensor, Tensor]:
    """Cut a patch out of a slice that is turned about the patch's centre and enlarged.

    The image is interpolated linearly, the label by nearest neighbour; what comes from outside
    the slice is 0 in the image and ignored in the label. Angles and lengths are those of the
    pixel grid.

    Args:
        pixels: As for :func:`cut_patch`.
        classes: As for :func:`cut_patch`.
        size: Height and width of the patch.
        where: Position of the patch.
        angle: Turn in radians, from the first axis towards the second.
        factor: Enlargement.

    Returns:
        As :func:`cut_patch`, to which it is equal for angle 0 and factor 1.
    """
    lengths = np.array(classes.shape, dtype=np.float64)
    sizes = np.array(size, dtype=np.float64)
    begin = [patch_begin(int(n), m, s) for n, m, s in zip(lengths, size, where, strict=True)]
    cos, sin = math.cos(angle) / factor, math.sin(angle) / factor
    # Patch to slice, both in coordinates that run over [-1, 1] from edge to edge.
    pull = np.empty((2, 3))
    pull[:, :2] = np.array([[cos, sin], [-sin, cos]]) * sizes / lengths[:, None]
    pull[:, 2] = (2 * np.array(begin) + sizes - lengths) / lengths
    # torch counts a point's coordinates from the last axis.
    theta = torch.from_numpy(pull[::-1, [1, 0, 2]].copy()).float()[None]
    grid = F.affine_grid(theta, [1, 1, *size], align_corners=False)

    def sample(array: np.ndarray, mode: str) -> Tensor:
        source = torch.from_numpy(array)[None]
        return F.grid_sample(source, grid, mode=mode, padding_mode="zeros", align_corners=False)[0]

    # One up in uint8 makes the ignored value 0, which is also what comes from outside.
    shifted = (classes + np.uint8(1)).astype(np.float32)
    image = sample(np.array(pixels, dtype=np.float32, order="C"), "bilinear")
    return image, sample(shifted[None], "nearest")[0].to(torch.uint8) - 1


def turned_volume_patch(
    pixels: np.ndarray,
    classes: np.ndarray,
    size: Sequence[int],
    begin: Sequence[int],
    pull: np.ndarray,
) -> tuple[Tensor, Tensor]:
    """Cut a patch out of a volume that is mapped linearly about the patch's centre.

    Only the box that the patch reaches into is read. The image is interpolated linearly, the label
    by nearest neighbour; what comes from outside the volume is 0 in the image and ignored in the
    label.

    Args:
        pixels: ``(M, X, Y, Z)``, any float type.
        classes: uint8 ``(X, Y, Z)``, 255 for ignored voxels.
        size: Size of the patch on each axis.
        begin: First voxel of the patch on each axis, were it not turned.
        pull: ``(3, 3)``, from a voxel's place in the patch to its place in the volume, both from
            the patch's centre, in voxels.

    Returns:
        As :func:`cut_at`, to which it is equal where ``pull`` is the identity.
    """
    sizes, lengths = np.array(size), np.array(classes.shape)
    centre = np.array(begin) + (sizes - 1) / 2
    reach = np.abs(pull) @ ((sizes - 1) / 2) + 1e-6
    low = np.floor(centre - reach).astype(int).clip(0, lengths - 1)
    high = (np.ceil(centre + reach).astype(int) + 1).clip(low + 1, lengths)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    extent = high - low
    # Patch to box, both in coordinates that run over [-1, 1] from edge to edge.
    matrix = np.empty((3, 4))
    matrix[:, :3] = pull * sizes / extent[:, None]
    matrix[:, 3] = (2 * (centre - low) + 1) / extent - 1
    theta = torch.from_numpy(matrix[::-1, [2, 1, 0, 3]].copy()).float()[None]
    grid = F.affine_grid(theta, [1, 1, *size], align_corners=False)
    source = _copied(pixels[(slice(None), *box)]).float()
    image = F.grid_sample(source[None], grid, mode="bilinear", align_corners=False)[0]
    # One up in uint8 makes the ignored value 0, which is also what comes from outside.
    shifted = (_copied(classes[box]) + 1).float()
    label = F.grid_sample(shifted[None, None], grid, mode="nearest", align_corners=False)[0, 0]
    return image, label.to(torch.uint8) - 1


def _copied(mapped: np.ndarray) -> Tensor:
    """Return a tensor of its own; float16 is widened by torch, which does it faster."""
    return torch.from_numpy(np.array(mapped, order="C"))


def turn_and_scale(
    spacing: Sequence[float], *, turn: float, tilts: tuple[float, float], factor: float
) -> np.ndarray:
    """Return the ``pull`` of :func:`turned_volume_patch` for a turn in mm and an enlargement.

    Args:
        spacing: Voxel size in mm on each axis: a turn keeps lengths in mm, not in voxels.
        turn: Angle about the last axis, in radians, from the first axis towards the second.
        tilts: Angles about the first and the second axis.
        factor: Enlargement.
    """
    matrix = np.eye(3)
    for angle, (a, b) in zip((turn, *tilts), ((0, 1), (1, 2), (2, 0)), strict=True):
        about = np.eye(3)
        about[[a, b], [a, b]] = math.cos(angle)
        about[a, b], about[b, a] = math.sin(angle), -math.sin(angle)
        matrix = matrix @ about
    mm = np.array(spacing, dtype=np.float64)
    return matrix * mm / mm[:, None] / factor
