"""Rotates, scales and mirrors patches of slices and volumes.

All three are one linear map of the grid about the patch's center, the ``matrix`` ``(d, d)`` from a
voxel's place in the patch to its place in the array, as in :func:`scipy.ndimage.affine_transform`.
Images are interpolated linearly, labels take their nearest neighbor; what comes from outside the
array is 0 in the image and ignored in the label.

In 3D linear interpolation is a weighted sum of the rows of a table, for which torch's
``embedding_bag`` takes a seventh (rotated within slices) or half (tilted) of the time of
``grid_sample``.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.loading.patches import Pair
from datamodules.reading.checks import IGNORED

__all__ = ["rotated_patch", "rotation_matrix"]

_PLANES = {2: ((0, 1),), 3: ((0, 1), (1, 2), (2, 0))}  # of each angle, by the number of axes
_PIECE = 1 << 17  # values interpolated at a time, which stay in the processor's cache
_BLOCK = (16, 32, 64)  # voxels of a patch that are tilted at a time
_ONE = np.float32(1)


def rotation_matrix(
    angles: Sequence[float] | np.ndarray,
    *,
    spacing: Sequence[float],
    factor: float = 1.0,
    mirror: Sequence[int] = (),
) -> np.ndarray:
    """Return the matrix of a patch that is rotated, enlarged and then mirrored.

    Args:
        angles: In radians: within slices, from the first axis towards the second; in 3D also
            about the first and about the second axis.
        spacing: Voxel size in mm on each axis: a rotation keeps lengths in mm, not in voxels.
        factor: Enlargement.
        mirror: Axes on which the patch is mirrored.
    """
    matrix = np.eye(len(spacing))
    for angle, (a, b) in zip(angles, _PLANES[len(spacing)], strict=True):
        rotation = np.eye(len(spacing))
        rotation[[a, b], [a, b]] = math.cos(angle)
        rotation[a, b], rotation[b, a] = math.sin(angle), -math.sin(angle)
        matrix = matrix @ rotation
    mm = np.array(spacing, dtype=np.float64)
    matrix = matrix * mm / mm[:, None] / factor
    matrix[:, list(mirror)] *= -1
    return matrix


def rotated_patch(
    pixels: np.ndarray, classes: np.ndarray, begin: Sequence[int], matrix: np.ndarray, out: Pair
) -> None:
    """Cut a patch out of a slice or volume that is mapped linearly about the patch's center.

    Only the box that the patch reaches into is read.

    Args:
        pixels: float ``(M, *S)``; writable, as torch wants it.
        classes: uint8 ``(*S,)``, 255 for ignored voxels; ``(R, *S)`` of several readers, of whom
            each is mapped alike.
        begin: First voxel of the patch on each axis, were it not rotated.
        matrix: ``(d, d)``, see :func:`rotation_matrix`.
        out: Where image and label are written, contiguous: float32 ``(M, *size)`` and uint8
            ``(*size,)`` or ``(R, *size)``.
    """
    axes = len(begin)
    lengths, half = np.array(classes.shape[-axes:]), (np.array(out[1].shape[-axes:]) - 1) / 2
    center = np.array(begin) + half
    reach = np.abs(matrix) @ half + 1e-6
    low = np.floor(center - reach).astype(int).clip(0, lengths - 1)
    high = (np.ceil(center + reach).astype(int) + 1).clip(low + 1, lengths)
    ends = zip(low, high, strict=True)
    box: tuple[Any, ...] = (..., *(slice(int(a), int(b)) for a, b in ends))
    pixels, classes, center = pixels[box], classes[box], center - low
    classes = classes.reshape(-1, *classes.shape[-axes:])
    out = out[0], out[1].view(-1, *out[1].shape[-axes:])
    if axes == 2:
        _rotate_slice(pixels, classes, center, matrix, out)
    elif matrix[2, :2].any() or matrix[:2, 2].any():
        _tilt(pixels, classes, center, matrix, out)
    else:
        _rotate_columns(pixels, classes, center, matrix, out)


# Below, labels are (R, *S) and (R, *size), also of a single reader.


def _offsets(size: Sequence[int]) -> list[np.ndarray]:
    """Return the voxels of each axis of a patch, counted from its center."""
    return [np.arange(n) - (n - 1) / 2 for n in size]


def _rotate_slice(
    pixels: np.ndarray, classes: np.ndarray, center: np.ndarray, matrix: np.ndarray, out: Pair
) -> None:
    image, label = out
    extent = np.array(classes.shape[1:])  # from -1 to 1 in torch's coordinates
    scaled = np.column_stack([matrix * (2 / extent)[:, None], (2 * center + 1) / extent - 1])
    x, y = (torch.from_numpy(places.astype(np.float32)) for places in _offsets(label.shape[1:]))
    grid = torch.empty(1, *label.shape[1:], 2)
    for k, (a, b, c) in enumerate(scaled[::-1].tolist()):  # torch begins with the last axis
        torch.add(x[:, None] * a, y * b + c, out=grid[0, ..., k])
    source = torch.from_numpy(pixels).float()[None]
    image.copy_(F.grid_sample(source, grid, align_corners=False)[0])
    marks = torch.from_numpy(classes).float()[None] - IGNORED  # torch pads by 0
    nearest = F.grid_sample(marks, grid, mode="nearest", align_corners=False)[0]
    label.copy_(nearest.add_(IGNORED))


def _sum_of_rows(table: Tensor, rows: np.ndarray, weights: np.ndarray) -> Tensor:
    """Return ``(n, width)``: the sums of the rows ``(n, k)`` of a table, each with its weight."""
    indices, factors = torch.from_numpy(rows), torch.from_numpy(weights)
    return F.embedding_bag(indices, table, per_sample_weights=factors, mode="sum")


# Rotated within slices: columns along the last axis stay columns, and all voxels of one have the
# same four neighboring columns and weights. The table's rows are the columns of a modality.


def _rotate_columns(
    pixels: np.ndarray, classes: np.ndarray, center: np.ndarray, matrix: np.ndarray, out: Pair
) -> None:
    image, label = out
    height, width, depth = classes.shape[1:]
    x, y, z = _offsets(label.shape[1:])
    row = (center[0] + matrix[0, 0] * x[:, None] + matrix[0, 1] * y).ravel()
    column = (center[1] + matrix[1, 0] * x[:, None] + matrix[1, 1] * y).ravel()
    level = center[2] + matrix[2, 2] * z

    corners = list(product(_neighbors(row, height), _neighbors(column, width)))
    rows = np.stack([i * width + j for (i, _), (j, _) in corners], axis=1)
    weights = np.stack([a * b for (_, a), (_, b) in corners], axis=1)
    (below, share_below), (above, share_above) = (
        (torch.from_numpy(index), torch.from_numpy(share))
        for index, share in _neighbors(level, depth)
    )
    step = -(-_PIECE // depth)
    for source, target in zip(torch.from_numpy(pixels), image.flatten(1, 2), strict=True):
        table = source.float().reshape(height * width, depth).contiguous()
        for begin, piece in zip(range(0, len(rows), step), target.split(step), strict=True):
            part = slice(begin, begin + step)
            columns = _sum_of_rows(table, rows[part], weights[part])
            torch.mul(columns.index_select(1, below), share_below, out=piece)
            piece.addcmul_(columns.index_select(1, above), share_above)

    places = zip((row, column, level), classes.shape[1:], strict=True)
    (i, no_row), (j, no_column), (k, no_level) = (_nearest(*each) for each in places)
    for reader, found in zip(classes, label.flatten(1, 2).numpy(), strict=True):
        levels = np.ascontiguousarray(reader).reshape(height * width, depth).take(k, axis=1)
        np.take(levels, i * width + j, axis=0, out=found, mode="clip")
        found[no_row | no_column] = IGNORED
        found[:, no_level] = IGNORED


def _neighbors(places: np.ndarray, length: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the voxels below and above each place, int32, and their weights: 0 outside."""
    below = np.floor(places)
    share = (places - below).astype(np.float32)
    pairs = []
    for index, weight in ((below, _ONE - share), (below + 1, share)):
        inside = (index >= 0) & (index < length)
        pairs.append((index.clip(0, length - 1).astype(np.int32), weight * inside))
    return pairs


def _nearest(places: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxel nearest to each place, and a mask of those outside."""
    index = np.rint(places).astype(np.int32)
    return index.clip(0, length - 1), (index < 0) | (index >= length)


# Tilted: every voxel has eight neighbors of its own, and the table's rows are a voxel's modalities.


def _tilt(
    pixels: np.ndarray, classes: np.ndarray, center: np.ndarray, matrix: np.ndarray, out: Pair
) -> None:
    image, label = out
    marks = np.pad(classes, ((0, 0), (1, 1), (1, 1), (1, 1)), constant_values=IGNORED)
    extent, size = marks.shape[1:], label.shape[1:]
    framed = torch.from_numpy(np.zeros((*extent, len(pixels)), np.float32))  # outside is 0
    framed[1:-1, 1:-1, 1:-1] = torch.from_numpy(pixels).movedim(0, -1)
    table, flat = framed.flatten(0, 2), marks.reshape(len(marks), -1)
    strides = np.array([extent[1] * extent[2], extent[2], 1], np.int32)
    corners = np.array(list(product((0, 1), repeat=3)), np.int32) @ strides
    highest = np.nextafter(np.array(extent, np.float32) - 1, np.float32(0))  # has one above it
    steps = [matrix[:, axis, None] * places for axis, places in enumerate(_offsets(size))]
    for block in _blocks(size):
        x, y, z = (step[:, part] for step, part in zip(steps, block, strict=True))
        plane = (x[:, :, None] + y[:, None, :] + center[:, None, None] + 1).astype(np.float32)
        places = plane[..., None] + z.astype(np.float32)[:, None, None]
        shape = places.shape[1:]
        share = places.reshape(3, -1)
        np.clip(share, 0, highest[:, None], out=share)
        below = share.astype(np.int32)  # the floor: no place is negative
        share -= below
        first = _row(below, strides)
        nearest = first + _row(share > 0.5, strides)
        label[(slice(None), *block)] = torch.from_numpy(flat.take(nearest, axis=1)).view(-1, *shape)
        found = _sum_of_rows(table, first[:, None] + corners, _corner_weights(share))
        image[(slice(None), *block)] = found.view(*shape, -1).movedim(-1, 0)


def _blocks(size: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Yield blocks that cover a patch, as compact as their source, which stays in the cache."""
    ranges = (range(0, n, step) for n, step in zip(size, _BLOCK, strict=True))
    for begin in product(*ranges):
        yield tuple(slice(a, a + step) for a, step in zip(begin, _BLOCK, strict=True))


def _row(voxels: np.ndarray, strides: np.ndarray) -> np.ndarray:
    """Return the rows of voxels ``(3, n)`` in a table of all, int32 ``(n,)``."""
    return voxels[0] * strides[0] + voxels[1] * strides[1] + voxels[2]


def _corner_weights(share: np.ndarray) -> np.ndarray:
    """Return the weights ``(n, 8)`` of a voxel's corners, by the share ``(3, n)`` of the upper."""
    weights = np.empty((share.shape[1], 8), np.float32)
    lower = _ONE - share
    for k, (a, b) in enumerate(product((lower, share), repeat=2)):
        plane = a[0] * b[1]
        np.multiply(plane, lower[2], out=weights[:, 2 * k])
        np.multiply(plane, share[2], out=weights[:, 2 * k + 1])
    return weights
