r"""Real numbers as whole multiples of a power of two, so that sums do not depend on their order.

Probabilities and Brier terms are kept in units of :math:`2^{-30}`, negative logarithms in units of
:math:`2^{-26}`: an int64 sum holds more than 4e9 voxels of the worst Brier score and 5e9 of the
worst negative logarithm. Rounding is to the nearest multiple, ties to even.
"""

import math

import torch
from torch import Tensor

FIXED_BITS = 30
LOG_BITS = 26
FIXED_ONE = 1 << FIXED_BITS
LOG_ONE = 1 << LOG_BITS
SUM_LIMIT = 1 << 62
"""A sum beyond it is an error: twice as much would no longer fit an int64."""


def to_fixed(values: Tensor, bits: int = FIXED_BITS) -> Tensor:
    """Round floats to whole multiples of ``2**-bits``; int64, shape of ``values``."""
    return (values * float(1 << bits)).round_().to(torch.int64)


def negative_log(values: Tensor) -> Tensor:
    r"""Return :math:`-\log v` in float64, with the same bits on every machine.

    Library logarithms differ in the last place between vector lanes and remainders, so their sums
    would depend on where a batch ends. Here :math:`v = m 2^e` with :math:`m` in
    :math:`[\sqrt{1/2}, \sqrt 2)` and :math:`\log m = 2\,\mathrm{artanh}\frac{m-1}{m+1}` by its
    series, one IEEE operation at a time. The error is below 2e-11.

    Args:
        values: Positive floats of any shape.
    """
    mantissa, exponent = torch.frexp(values.double())  # mantissa in [0.5, 1)
    low = mantissa < math.sqrt(0.5)
    mantissa = torch.where(low, mantissa * 2, mantissa)
    exponent = exponent - low.to(exponent.dtype)
    ratio = (mantissa - 1) / (mantissa + 1)
    square = ratio * ratio
    series = square * (2 / 11)
    for order in (9, 7, 5, 3):
        series += 2 / order
        series *= square
    series += 2
    series *= ratio
    series += exponent.double() * math.log(2)
    return series.neg_()
