"""Turns, enlarges and mirrors slices: linear maps of the grid about a patch's centre.

A map is its ``pull``, ``(d, d)``: from a voxel's place in the patch to its place in the array, both
from the patch's centre, in voxels. Images are interpolated linearly, labels take their nearest
neighbour; what comes from outside the array is 0 in the image and ignored in the label.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.loading.patches import Pair
from datamodules.memory import Scratch

_SCRATCH = Scratch()


def turn_in_plane(turn: float, factor: float, mirror: Sequence[int]) -> np.ndarray:
    """Return the ``pull`` of a slice that is turned, enlarged and then mirrored.

    Args:
        turn: Angle in radians, from the first axis towards the second.
        factor: Enlargement.
        mirror: Axes on which the patch is mirrored.
    """
    cosine, sine = math.cos(turn) / factor, math.sin(turn) / factor
    first, second = (-1 if axis in mirror else 1 for axis in range(2))
    return np.array([[first * cosine, second * sine], [-first * sine, second * cosine]])


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
        pulls: ``(2, 2)`` of each, its ``pull``.
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
