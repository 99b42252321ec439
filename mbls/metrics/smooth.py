r"""Smooth calibration error: a kernel instead of bins, from the fine histogram.

:math:`\mathrm{smECE}_s = \int_0^1 |\frac1N \sum_i K_s(t, f_i)(f_i - y_i)|\,dt` with a Gaussian of
width s reflected at 0 and 1, and :math:`\mathrm{smECE} = \mathrm{smECE}_{s^*}` where
:math:`s^* = \mathrm{smECE}_{s^*}` (Blasiok and Nakkiran 2024, arXiv:2309.12236).

A voxel counts at the mean confidence of its cell. Moving a kernel by d changes its integral by at
most :math:`\sqrt{2/\pi}\,d/s`, so with cells of at most 0.0025 the error of
:math:`\mathrm{smECE}_s` is at most :math:`0.002/s` times the mean :math:`|f_i - y_i|`, and that of
:math:`s^*` at most the same at :math:`s^*`. Residuals within a cell cancel, so an error below the
width of a cell, 0.0025, is not resolved and is too small.
"""

import numpy as np
from scipy.fft import dct, idct

_POINTS = 8192
_HALVINGS = 30


def smoothed_error(table: np.ndarray, width: float) -> float:
    r"""Return :math:`\mathrm{smECE}_s` for a fixed ``width`` s; NaN if nothing was counted.

    The reflected Gaussian is diagonal in the cosine basis with factors
    :math:`e^{-(\pi k s)^2/2}`, so the convolution is exact on a grid of 8192 points.

    Args:
        table: ``(3, cells)``: voxels, hits, summed confidences.
        width: Standard deviation of the kernel, in units of probability.
    """
    if table[0].sum() == 0:
        return float("nan")
    return _error(_spectrum(table), width)


def smooth_error(table: np.ndarray) -> float:
    """Return the smooth calibration error, the width that equals its own error.

    Args:
        table: ``(3, cells)``: voxels, hits, summed confidences of one channel.
    """
    if table[0].sum() == 0:
        return float("nan")
    spectrum = _spectrum(table)
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):  # the error falls as the kernel widens
        middle = (low + high) / 2
        if _error(spectrum, middle) > middle:
            low = middle
        else:
            high = middle
    return high


def _spectrum(table: np.ndarray) -> np.ndarray:
    """Return the cosine coefficients of the residuals, interpolated linearly onto the grid."""
    count, hits, confidence = table
    filled = count > 0
    mean = confidence[filled] / count[filled]
    residual = (confidence - hits)[filled] / count.sum()
    place = np.clip(mean * _POINTS - 0.5, 0, _POINTS - 1)
    left = np.minimum(place.astype(int), _POINTS - 2)
    right = place - left
    density = np.bincount(left, residual * (1 - right), _POINTS)
    density += np.bincount(left + 1, residual * right, _POINTS)
    return dct(density, norm="ortho")


def _error(spectrum: np.ndarray, width: float) -> float:
    factors = np.exp(-np.square(np.pi * width * np.arange(_POINTS)) / 2)
    return float(np.abs(idct(spectrum * factors, norm="ortho")).sum())
