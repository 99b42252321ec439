"""Stationary Gaussian random fields on a voxel grid, with exactly unit variance."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def gaussian_field(
    shape: Sequence[int],
    spacing: Sequence[float],
    length: Sequence[float],
    rng: np.random.Generator,
) -> Floats:
    r"""Draw a field of mean 0 and variance 1 whose correlation is known exactly.

    Two voxels ``d`` apart (mm) have the correlation :math:`\prod_a \exp(-d_a^2 / 2 \ell_a^2)`.
    It is a product over the axes, so white noise is multiplied, axis by axis, by the symmetric
    square root of that axis's correlation matrix (unique, unlike its eigenvectors or a draw in
    their basis); nothing wraps around.

    Args:
        shape: Voxels along each axis, three of them.
        spacing: Voxel size along each axis, mm.
        length: Correlation length along each axis, mm, > 0.
        rng: Source of the draw: as many values as there are voxels.

    Returns:
        float32 array of ``shape``.
    """
    x, y, z = (_root(*axis) for axis in zip(shape, spacing, length, strict=True))
    field = rng.standard_normal(shape, dtype=np.float32)
    field = (x @ field.reshape(shape[0], -1)).reshape(shape)
    return (y @ field) @ z.T


@lru_cache(maxsize=64)
def _root(n: int, step: float, length: float) -> Floats:
    """Return the square root of the correlation matrix ``(n, n)`` of one axis."""
    distance = (np.arange(n)[:, None] - np.arange(n)) * step
    values, vectors = np.linalg.eigh(np.exp(-0.5 * (distance / length) ** 2))
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return (root / np.linalg.norm(root, axis=1, keepdims=True)).astype(np.float32)
