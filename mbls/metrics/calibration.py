r"""Calibration errors of binned counts.

With :math:`n_b` voxels, :math:`h_b` hits and a summed confidence :math:`c_b` in bin :math:`b`, and
:math:`N=\sum_b n_b`, the gap of a bin is :math:`h_b/n_b - c_b/n_b` and its weight :math:`n_b/N`.
Each function takes float64 arrays ``(..., n_bins)`` and reduces the last axis; a row without voxels
is NaN, an empty bin adds nothing. For their expectation under a calibrated model see
:mod:`mbls.metrics.floor`.
"""

from typing import Literal

import numpy as np

Norm = Literal["l1", "l2"]


def expected_error(
    count: np.ndarray, hits: np.ndarray, confidence: np.ndarray, *, norm: Norm = "l1"
) -> np.ndarray:
    r"""Return :math:`\sum_b \frac{n_b}{N}|gap_b|`, or the root of the mean squared gap.

    The expected calibration error (Naeini et al., AAAI 2015; Guo et al. 2017, arXiv:1706.04599).

    Raises:
        ValueError: If ``norm`` is neither ``"l1"`` nor ``"l2"``.

    Example:
        >>> float(expected_error(np.array([2.0, 2.0]), np.array([1.0, 2.0]), np.array([0.5, 1.5])))
        0.25
    """
    if norm not in ("l1", "l2"):
        raise ValueError(f"norm must be 'l1' or 'l2', got {norm!r}.")
    total = _total(count)
    gap = hits - confidence
    if norm == "l1":
        return np.abs(gap).sum(-1) / total
    return np.sqrt((np.square(gap) / np.where(count > 0, count, 1)).sum(-1) / total)


def average_error(count: np.ndarray, hits: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    r"""Return the mean :math:`|gap_b|` over non-empty bins (ACE of Neumann et al. 2018)."""
    return _gaps(count, hits, confidence).sum(-1) / _total((count > 0).astype(np.float64))


def maximum_error(count: np.ndarray, hits: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    r"""Return the largest :math:`|gap_b|` (MCE, Naeini et al., AAAI 2015)."""
    gaps = _gaps(count, hits, confidence).max(-1)
    return np.where(count.sum(-1) > 0, gaps, np.nan)


def signed_error(count: np.ndarray, hits: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Return mean confidence minus accuracy: positive is overconfident."""
    return (confidence - hits).sum(-1) / _total(count)


def over_error(count: np.ndarray, hits: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Return the part of the expected error from bins with too much confidence."""
    return np.maximum(confidence - hits, 0).sum(-1) / _total(count)


def under_error(count: np.ndarray, hits: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Return the part of the expected error from bins with too little confidence."""
    return np.maximum(hits - confidence, 0).sum(-1) / _total(count)


def _total(count: np.ndarray) -> np.ndarray:
    total = count.sum(-1)
    return np.where(total > 0, total, np.nan)


def _gaps(count: np.ndarray, hits: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    return np.abs(hits - confidence) / np.where(count > 0, count, 1)
