"""Bounding boxes of structures in an array of class numbers."""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import find_objects

Box = tuple[slice, ...]


def bounding_boxes(numbers: np.ndarray) -> dict[int, Box]:
    """Return the bounding box of each positive number in an array of integers."""
    found = find_objects(numbers, max(1, int(numbers.max(initial=0))))
    return {number: box for number, box in enumerate(found, 1) if box is not None}


def around(boxes: Sequence[Box]) -> Box:
    """Return the bounding box of several, at least one."""
    axes = zip(*boxes, strict=True)
    return tuple(slice(min(s.start for s in a), max(s.stop for s in a)) for a in axes)


def common(one: Box, other: Box) -> Box:
    """Return the intersection of two boxes, which may be empty."""
    pairs = zip(one, other, strict=True)
    return tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in pairs)


def grown(box: Box, shape: Sequence[int], spacing: Sequence[float], margin: float) -> Box:
    """Return a box grown on each side by ``margin`` mm, and a voxel for rounding.

    Args:
        box: The box.
        shape: Shape of the volume, to which the result is clipped.
        spacing: Voxel size along each axis in mm.
        margin: Distance in mm.
    """
    wider = []
    for axis, size, mm in zip(box, shape, spacing, strict=True):
        reach = int(min(margin / mm, size)) + 1
        wider.append(slice(max(0, axis.start - reach), min(size, axis.stop + reach)))
    return tuple(wider)
