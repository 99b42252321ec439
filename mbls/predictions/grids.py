"""Whether two volumes are in one place, by their affines."""

from collections.abc import Sequence

import numpy as np
from nibabel.affines import apply_affine, voxel_sizes

__all__ = ["SHIFT", "corners_apart", "same_place"]

SHIFT = 0.05  # voxels by which two grids may differ


def corners_apart(shape: Sequence[int], one: np.ndarray, other: np.ndarray) -> float:
    """Return how far two affines put a corner of a volume apart, in mm.

    Args:
        shape: Shape ``(X, Y, Z)`` of the volume.
        one: Affine ``(4, 4)``.
        other: Another.
    """
    corners = np.stack(np.meshgrid(*[[0, size - 1] for size in shape]), -1).reshape(-1, 3)
    places = [apply_affine(matrix, corners) for matrix in (one, other)]
    return float(np.linalg.norm(places[0] - places[1], axis=-1).max())


def same_place(shape: Sequence[int], one: np.ndarray, other: np.ndarray) -> bool:
    """Return True if two affines put a volume in one place, within :data:`SHIFT` of a voxel."""
    return corners_apart(shape, one, other) <= SHIFT * float(voxel_sizes(other).min())
