r"""The exact grid: 60 equal bins of the unit interval and one cell for exactly zero.

Bin ``k`` of 1..60 is ``(float32((k-1)/60), float32(k/60)]``; cell 0 holds the probabilities that
are exactly 0. Every number of bins that divides 60 (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60) is a
sum of neighbouring cells, so one histogram serves them all. All edges are whole multiples of
:math:`2^{-30}`, the unit in which confidences are summed (:mod:`mbls.metrics.fixed_point`).
"""

import numpy as np
import torch
from torch import Tensor

GRID_BINS = 60
GRID_CELLS = GRID_BINS + 1
# Just below 60: the product then never rounds past the bin's own number, so one comparison with the
# exact edge completes it.
_SCALE = GRID_BINS * (1 - 2.0**-21)


def grid_edges() -> np.ndarray:
    """Return the 61 edges ``k/60`` rounded to float32, as float64 ``(61,)``."""
    return (np.arange(GRID_CELLS, dtype=np.float32) / np.float32(GRID_BINS)).astype(np.float64)


def grid_cells(probs: Tensor) -> Tensor:
    """Return the cell of each probability as float32 whole numbers 0..60, shape of ``probs``.

    Args:
        probs: Probabilities at most 1, float32 or float64. The cell of a float64 value is that of
            the value rounded to float32, except that only an exact zero is in cell 0.
    """
    single = probs.float()
    bins = torch.tensor(float(GRID_BINS), device=probs.device)  # a tensor: divided, not multiplied
    cells = (single * _SCALE).ceil_()
    cells += single > cells / bins  # IEEE division gives the edge itself
    if probs.dtype == torch.float64:
        cells = torch.where(probs > 0, cells.clamp_min(1), cells)
    return cells


def check_n_bins(n_bins: int) -> int:
    """Return ``n_bins`` if the 60 bins of the grid can be summed to it.

    Raises:
        ValueError: If ``n_bins`` does not divide 60.
    """
    if not isinstance(n_bins, int) or n_bins < 1 or GRID_BINS % n_bins:
        raise ValueError(
            f"n_bins must divide {GRID_BINS} (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30 or 60), got "
            f"{n_bins!r}."
        )
    return n_bins
