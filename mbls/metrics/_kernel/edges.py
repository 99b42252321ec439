r"""The exact grid: 60 equal bins of the unit interval and one cell for exactly zero.

Bin ``k`` of 1..60 is ``(float32((k-1)/60), float32(k/60)]``; cell 0 holds the probabilities that
are exactly 0. Every number of bins that divides 60 (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60) is a
sum of neighbouring cells, so one histogram serves them all. All edges are whole multiples of
:math:`2^{-30}`, the unit in which confidences are summed (:mod:`mbls.metrics._kernel.fixed_point`).
"""

import numpy as np
import torch
from torch import Tensor

from mbls.runtime.scratch import Scratch

GRID_BINS = 60
GRID_CELLS = GRID_BINS + 1
# In float32 arithmetic ceil((p * 255) * float32(60 / 255)) is the right cell of every float32: of
# each edge and of the number after each edge, and rounding is monotone. One factor 60 would be
# wrong for three of them.
_FACTORS = (255.0, 60 / 255)


def grid_edges() -> np.ndarray:
    """Return the 61 edges ``k/60`` rounded to float32, as float64 ``(61,)``."""
    return (np.arange(GRID_CELLS, dtype=np.float32) / np.float32(GRID_BINS)).astype(np.float64)


def grid_cells(probs: Tensor, scratch: Scratch) -> Tensor:
    """Return the cell of each probability as int32 0..60, shape of ``probs``.

    Args:
        probs: float32 or float64; above 1 counts as 1, below 0 and NaN as 0. The cell of a float64
            value is that of the value rounded to float32, except that only an exact zero is in
            cell 0.
        scratch: Memory for the work; the result is its buffer ``"int32"``.
    """
    shape = tuple(probs.shape)
    cells = cells_as_floats(probs, scratch("float32", shape, torch.float32))
    return scratch("int32", shape, torch.int32).copy_(cells).clamp_(0, GRID_BINS)


def cells_as_floats(probs: Tensor, out: Tensor) -> Tensor:
    """Write the cells of :func:`grid_cells` to ``out``, float32, not clamped and with NaN kept."""
    if probs.dtype == torch.float64:
        smallest = torch.finfo(torch.float32).smallest_normal
        probs = torch.where(probs > 0, probs.float().clamp_min(smallest), probs.float())
    first, second = _FACTORS
    return torch.mul(probs, first, out=out).mul_(second).ceil_()


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
