"""Errors of equal-mass bins, from the fine grid: adaptive ECE and thresholded ACE.

Published codes sort the voxels and cut them at ranks, each in its own way, and among equal
confidences in whatever order the sort left them. Here whole cells are cut. For cells at most ``w``
wide (0.0025) the error differs from that of the sorted voxels, in any order of ties, by no more
than ``(1 + w) / 2`` times the share of voxels in cells that an inner edge cuts: inside a cell of n
voxels and h hits, parts can differ from their fair shares by ``2 h (n - h) / n <= n / 2`` hits and
``w n / 2`` of confidence in all, and what no edge cuts is exact.
"""

from collections.abc import Callable

import numpy as np

from mbls.metrics.calibration import expected_error

BinError = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""From voxels, hits and summed confidences ``(n_bins,)`` to one number."""


def equal_mass_bins(table: np.ndarray, n_bins: int) -> np.ndarray:
    """Sum ordered cells to bins of equal counts.

    A cell that two bins share is split in proportion: its voxels are taken for alike. So a bin's
    edge is off by at most the width of a cell, and among equal confidences, which no edge can part,
    hits are shared out evenly.

    Args:
        table: ``(3, cells)``: voxels, hits, summed confidences.
        n_bins: Number of bins.

    Returns:
        float64 ``(3, n_bins)``.
    """
    cumulated = np.concatenate([np.zeros((3, 1)), np.cumsum(table, axis=1)], axis=1)
    edges = np.linspace(0, cumulated[0, -1], n_bins + 1)
    return np.diff([np.interp(edges, cumulated[0], row) for row in cumulated], axis=1)


def adaptive_error(
    table: np.ndarray, *, n_bins: int = 15, error: BinError = expected_error
) -> float:
    """Return the expected error over equal-mass bins (Nguyen and O'Connor 2015); NaN if empty.

    Args:
        table: ``(3, cells)``: voxels, hits, summed confidences.
        n_bins: Number of bins.
        error: What to compute from the bins.
    """
    if table[0].sum() == 0:
        return float("nan")
    return float(error(*equal_mass_bins(table, n_bins)))


def thresholded_error(
    tables: np.ndarray,
    *,
    threshold: float = 0.01,
    n_bins: int = 15,
    error: BinError = expected_error,
) -> float:
    """Return TACE (Nixon et al. 2019, arXiv:1904.01685).

    For each class the probabilities above ``threshold`` go into equal-mass bins, weighted by the
    kept counts; the mean over classes that keep any. A cell counts as above if its mean confidence
    is, so of a threshold inside a cell (1e-4 wide at 0.01) the cell's voxels go one way.

    Args:
        tables: ``(3, classes, cells)``.
        threshold: Probabilities up to it are left out.
        n_bins: Number of bins.
        error: What to compute from the bins of each class.
    """
    errors = []
    for table in np.moveaxis(tables, 1, 0):
        mean = table[2] / np.maximum(table[0], 1)
        kept = table[:, mean > threshold]
        if kept[0].sum() > 0:
            errors.append(adaptive_error(kept, n_bins=n_bins, error=error))
    return float(np.mean(errors)) if errors else float("nan")
