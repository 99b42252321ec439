"""Random streams, and stationary Gaussian fields on a grid, with exactly unit variance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Floats = NDArray[np.floating]


def stream(seed: int, number: int, purpose: str) -> np.random.Generator:
    """Return a generator of its own for each patient and purpose."""
    return np.random.default_rng([seed, number, *purpose.encode()])


def gaussian_field(
    shape: Sequence[int],
    spacing: Sequence[float],
    length: Sequence[float],
    rng: np.random.Generator,
) -> Floats:
    r"""Draw a field of mean 0 and variance 1 at every voxel.

    Two voxels ``d`` apart (mm) have the correlation :math:`\prod_a \exp(-d_a^2 / 2 \ell_a^2)`.
    In plane, white noise on a periodic grid, padded by two lengths, is filtered in the Fourier
    domain by a kernel of unit energy, so that the variance is 1 and not only close to it. Across
    the few slices it is multiplied by the square root of the correlation matrix. Neither uses
    BLAS, whose own threads would slow down many fields drawn at once.

    Args:
        shape: Voxels along each axis ``(X, Y, Z)``.
        spacing: Voxel size along each axis, mm.
        length: Correlation length along each axis, mm, > 0.
        rng: Source of the draw; how many values it gives depends on the other arguments alone.

    Returns:
        float32 array of ``shape``.
    """
    padded = [
        fft.next_fast_len(n + math.ceil(2 * scale / step), real=True)
        for n, step, scale in zip(shape[:2], spacing, length, strict=False)
    ]
    noise = rng.standard_normal((shape[2], *padded), dtype=np.float32)
    noise = np.einsum("ij,jxy->ixy", _root(shape[2], spacing[2], length[2]), noise)
    gain = _gain(padded[0], spacing[0], length[0])[:, None]
    gain = gain * _gain(padded[1], spacing[1], length[1])[: padded[1] // 2 + 1]
    field = fft.irfft2(fft.rfft2(noise, workers=1) * gain, s=padded, workers=1)
    return np.ascontiguousarray(field[:, : shape[0], : shape[1]].transpose(1, 2, 0))


def _gain(n: int, step: float, length: float) -> Floats:
    """Return the transform ``(n,)`` of a kernel that correlates white noise as asked for."""
    distance = np.minimum(np.arange(n), n - np.arange(n)) * step
    kernel = np.exp(-((distance / length) ** 2))  # its autocorrelation is exp(-d^2 / 2 l^2)
    kernel /= np.sqrt((kernel**2).sum())
    return np.fft.fft(kernel).real.astype(np.float32)


def _root(n: int, step: float, length: float) -> Floats:
    """Return the symmetric square root of the correlation matrix ``(n, n)`` of one axis."""
    distance = (np.arange(n)[:, None] - np.arange(n)) * step
    values, vectors = np.linalg.eigh(np.exp(-0.5 * (distance / length) ** 2))
    root = np.einsum("ik,k,jk->ij", vectors, np.sqrt(np.clip(values, 0, None)), vectors)
    return (root / np.linalg.norm(root, axis=1, keepdims=True)).astype(np.float32)
