"""Errors over equal-mass bins, from the fine histogram: adaptive ECE and thresholded ACE.

Published code sorts the voxels and splits them by rank, with an arbitrary order of ties. Here cells
of the histogram are split. With cells of width at most ``w`` (0.0025), the error differs from that
of sorted voxels, for any order of ties, by at most ``(1 + w) / 2`` times the share of voxels in
cells that contain an inner edge: in a cell of n voxels and h hits, the parts can differ from
proportional ones by ``2 h (n - h) / n <= n / 2`` hits and ``w n / 2`` of confidence in total. Cells
without an edge are exact.
"""

from collections.abc import Callable

import numpy as np

from mbls.metrics.calibration import expected_error

BinError = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Maps voxels, hits and summed confidences ``(n_bins,)`` to a scalar."""


def equal_mass_bins(table: np.ndarray, n_bins: int) -> np.ndarray:
    """Sum ordered cells to bins of equal counts.

    A cell that two bins share is split in proportion, as if its voxels were equal. So an edge is
    off by at most the width of a cell, and the hits of equal confidences are divided evenly.

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
        error: Error of the bins.
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

    The mean over classes of the error over equal-mass bins of the probabilities above
    ``threshold``. A cell counts as above if its mean confidence is (cells are 1e-4 wide at 0.01).

    Args:
        tables: ``(3, classes, cells)``.
        threshold: Probabilities up to this value are skipped.
        n_bins: Number of bins.
        error: Error of the bins of each class.
    """
    errors = []
    for table in np.moveaxis(tables, 1, 0):
        mean = table[2] / np.maximum(table[0], 1)
        kept = table[:, mean > threshold]
        if kept[0].sum() > 0:
            errors.append(adaptive_error(kept, n_bins=n_bins, error=error))
    return float(np.mean(errors)) if errors else float("nan")
