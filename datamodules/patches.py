"""Cuts a patch out of a slice or a volume, straight or turned and scaled."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.checks import IGNORED
from datamodules.memory import Scratch, empty

Where = tuple[float, float]  # position of the patch on each axis, from 0 to 1; 0.5 is the centre
CENTER: Where = (0.5, 0.5)
_SCRATCH = Scratch()
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


def turned_patch(
    pixels: np.ndarray, classes: np.ndarray, begin: Sequence[int], pull: np.ndarray, out: Pair
) -> Pair:
    """Cut a patch out of a slice or volume that is mapped linearly about the patch's centre.

    Only the box that the patch reaches into is read. The image is interpolated linearly, the label
    by nearest neighbour; what comes from outside is 0 in the image and ignored in the label.

    Args:
        pixels: As for :func:`cut_at`, two or three axes after the first.
        classes: As for :func:`cut_at`.
        begin: First voxel of the patch on each axis, were it not turned.
        pull: ``(d, d)``, from a voxel's place in the patch to its place in the array, both from
            the patch's centre, in voxels.
        out: As for :func:`cut_at`.

    Returns:
        ``out``, as of :func:`cut_at` where ``pull`` is the identity.
    """
    image, label = out
    sizes, lengths = np.array(label.shape), np.array(classes.shape)
    centre = np.array(begin) + (sizes - 1) / 2
    reach = np.abs(pull) @ ((sizes - 1) / 2) + 1e-6
    low = np.floor(centre - reach).astype(int).clip(0, lengths - 1)
    high = (np.ceil(centre + reach).astype(int) + 1).clip(low + 1, lengths)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    grid = _sampling_grid(pull, centre - low, sizes, high - low)
    source = torch.from_numpy(pixels[(slice(None), *box)]).to(
        torch.float32, memory_format=torch.contiguous_format
    )
    image.copy_(F.grid_sample(source[None], grid, mode="bilinear", align_corners=False)[0])
    # One up in uint8 makes the ignored value 0, which is also what comes from outside.
    shifted = (torch.from_numpy(classes[box]) + 1).float()
    nearest = F.grid_sample(shifted[None, None], grid, mode="nearest", align_corners=False)[0, 0]
    label.copy_(nearest).sub_(1)
    return out


def _sampling_grid(
    pull: np.ndarray, centre: np.ndarray, sizes: np.ndarray, extent: np.ndarray
) -> Tensor:
    """Return ``grid_sample``'s grid ``(1, *sizes, d)``: a sum of one line for each axis.

    It is torch's ``affine_grid`` without its matrix product, one plane a coordinate.

    Args:
        pull: As for :func:`turned_patch`.
        centre: The patch's centre in the box, in voxels.
        sizes: Size of the patch.
        extent: Size of the box, whose edges are at -1 and 1.
    """
    d = len(sizes)
    planes = empty((d, *sizes.tolist()), torch.float32)
    places = [np.arange(n) - (n - 1) / 2 for n in sizes]
    for row in range(d):
        lines = []
        for axis in range(d):
            line = pull[row, axis] * 2 / extent[row] * places[axis]
            if axis == 0:
                line = line + (2 * centre[row] + 1) / extent[row] - 1
            lines.append(torch.from_numpy(line.astype(np.float32)).view(-1, *[1] * (d - 1 - axis)))
        torch.add(sum(lines[1:-1], lines[0]), lines[-1], out=planes[d - 1 - row])
    return planes.movedim(0, -1)[None]  # torch counts a point's coordinates from the last axis


def frame_memory(count: int, channels: int, size: Sequence[int], margin: Sequence[int]) -> Pair:
    """Return memory for patches with a margin on both sides, that the next call overwrites."""
    framed = tuple(n + 2 * m for n, m in zip(size, margin, strict=True))
    image = _SCRATCH("frames", (count, channels, *framed), "<f4")
    return torch.from_numpy(image), torch.from_numpy(_SCRATCH("marks", (count, *framed), "|u1"))


def turn_frames(
    frames: Tensor, marks: Tensor, pulls: Sequence[np.ndarray], places: Sequence[int], out: Pair
) -> None:
    """Write the middles of slices, each mapped linearly about its centre.

    The image is interpolated linearly, the label by nearest neighbour. All are of one size, so a
    patch is the same to the last bit whichever others are turned with it.

    Args:
        frames: float32 ``(n, M, H, W)``, as far around the patches as they reach.
        marks: uint8 ``(n, H, W)``.
        pulls: ``(2, 2)`` of each, as for :func:`turned_patch`.
        places: Which patches of ``out`` to write.
        out: float32 ``(N, M, *size)`` and uint8 ``(N, *size)``.
    """
    images, labels = out
    size, extent = labels.shape[1:], np.array(marks.shape[1:])
    scaled = torch.from_numpy((np.stack(pulls) * (2 / extent)[:, None]).astype(np.float32))
    rows, columns = (torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in size)
    planes = (scaled[:, :, 0, None] * rows)[..., None] + (scaled[:, :, 1, None] * columns)[
        :, :, None
    ]
    grid = planes.flip(1).movedim(1, -1)  # torch counts a point's coordinates from the last axis
    chosen = list(places)
    images[chosen] = F.grid_sample(frames, grid, mode="bilinear", align_corners=False)
    nearest = F.grid_sample(marks[:, None].float(), grid, mode="nearest", align_corners=False)
    labels[chosen] = nearest[:, 0].to(torch.uint8)


def turn_in_plane(turn: float, factor: float, mirror: Sequence[int]) -> np.ndarray:
    """Return the ``pull`` of a slice that is turned, enlarged and then mirrored.

    Args:
        turn: Angle in radians, from the first axis towards the second.
        factor: Enlargement.
        mirror: Axes on which the patch is mirrored.
    """
    cosine, sine = math.cos(turn) / factor, math.sin(turn) / factor
    pull = np.array([[cosine, sine], [-sine, cosine]])
    pull[:, list(mirror)] *= -1
    return pull


def turn_and_scale(
    spacing: Sequence[float], *, turn: float, tilts: tuple[float, float], factor: float
) -> np.ndarray:
    """Return the ``pull`` of :func:`turned_patch` for a turn in mm and an enlargement.

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
