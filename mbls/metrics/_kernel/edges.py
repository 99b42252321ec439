r"""The bins of the exact histogram: 60 equal bins of [0, 1] and one cell for exact zeros.

Bin ``k`` of 1..60 is ``(float32((k-1)/60), float32(k/60)]``; cell 0 contains exact zeros. For any
number of bins that divides 60 (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60), bins are sums of
adjacent cells, so one histogram serves all. All edges are multiples of :math:`2^{-30}`, the unit in
which confidences are summed (:mod:`mbls.metrics._kernel.fixed_point`).
"""

import numpy as np
import torch
from torch import Tensor

from mbls.runtime.scratch import Scratch

GRID_BINS = 60
GRID_CELLS = GRID_BINS + 1
# In float32, ceil((p * 255) * float32(60 / 255)) is the correct cell of every float32: it is for
# each edge and its successor, and rounding is monotone. A single factor 60 is wrong for three of
# them.
_FACTORS = (255.0, 60 / 255)


def grid_edges() -> np.ndarray:
    """Return the 61 edges ``k/60`` rounded to float32, as float64 ``(61,)``."""
    return (np.arange(GRID_CELLS, dtype=np.float32) / np.float32(GRID_BINS)).astype(np.float64)


def grid_cells(probs: Tensor, scratch: Scratch) -> Tensor:
    """Return the cell of each probability as int32 0..60, shape of ``probs``.

    Args:
        probs: float32 or float64; values are clamped to [0, 1], NaN to 0. The cell of a float64
            value is that of the value rounded to float32, except that only exact zeros are in
            cell 0.
        scratch: Reusable buffers; the result is its buffer ``"int32"``.
    """
    shape = tuple(probs.shape)
    cells = cells_as_floats(probs, scratch("float32", shape, torch.float32))
    return scratch("int32", shape, torch.int32).copy_(cells).clamp_(0, GRID_BINS)


def cells_as_floats(probs: Tensor, out: Tensor) -> Tensor:
    """Write the cells of :func:`grid_cells` to ``out``, float32, without clamping."""
    if probs.dtype == torch.float64:
        smallest = torch.finfo(torch.float32).smallest_normal
        probs = torch.where(probs > 0, probs.float().clamp_min(smallest), probs.float())
    first, second = _FACTORS
    return torch.mul(probs, first, out=out).mul_(second).ceil_()


def check_n_bins(n_bins: int) -> int:
    """Return ``n_bins`` if it divides 60.

    Raises:
        ValueError: If ``n_bins`` does not divide 60.
    """
    if not isinstance(n_bins, int) or n_bins < 1 or GRID_BINS % n_bins:
        raise ValueError(
            f"n_bins must divide {GRID_BINS} (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30 or 60), got "
            f"{n_bins!r}."
        )
    return n_bins
