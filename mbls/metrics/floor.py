r"""Noise floor of the calibration error, and a debiased squared error.

The error of a calibrated model is not zero, since hits are random. The **noise floor** is its
expectation given confidences and counts,
:math:`\sum_b \frac{n_b}{N} E|\mathrm{Bin}(n_b, \bar p_b)/n_b - \bar p_b|`. It assumes independent
voxels. Neighbors are correlated, so it is a lower bound of the contribution of noise, and must not
be subtracted. The **debiased square** has expectation zero for a calibrated model, and is signed.
"""

import numpy as np
from scipy.stats import binom


def binomial_deviation(count: np.ndarray, probability: np.ndarray) -> np.ndarray:
    r"""Return :math:`E|\mathrm{Bin}(n, p)/n - p|`, elementwise; 0 for n = 0.

    De Moivre's closed form :math:`\frac2n v(1-p)\binom nv p^v(1-p)^{n-v}`, with
    :math:`v=\lfloor np\rfloor+1` (Diaconis and Zabell 1991).

    Example:
        >>> float(binomial_deviation(np.array(1.0), np.array(0.5)))
        0.5
    """
    count, probability = np.asarray(count, np.float64), np.asarray(probability, np.float64)
    mean = np.clip(probability, 0, 1)
    value = np.floor(count * mean) + 1
    density = binom.pmf(value, count, mean)
    result = 2 * value * (1 - mean) * density / np.maximum(count, 1)
    return np.where((count > 0) & (mean > 0) & (mean < 1), result, 0.0)


def expected_error_floor(count: np.ndarray, hits: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Return the expected calibration error of a calibrated model.

    The confidences in a bin are replaced by their mean, which slightly raises the value
    (Hoeffding 1956).

    Args:
        count: Voxels ``(..., n_bins)``.
        hits: Unused; accepted for a common signature of all estimators.
        confidence: Summed confidences ``(..., n_bins)``.
    """
    del hits
    total = count.sum(-1)
    mean = confidence / np.where(count > 0, count, 1)
    floor = (count * binomial_deviation(count, mean)).sum(-1)
    return floor / np.where(total > 0, total, np.nan)


def debiased_square(count: np.ndarray, hits: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    r"""Return :math:`\sum_b \frac{n_b}{N}[gap_b^2 - \frac{\bar y_b(1-\bar y_b)}{n_b-1}]`, signed.

    Kumar, Liang and Ma 2019 (arXiv:1909.10155); bins with fewer than two voxels add nothing. The
    root of its positive part would be biased again.
    """
    total = count.sum(-1)
    enough = count > 1
    n = np.where(enough, count, 2)
    share = hits / n
    gap = (hits - confidence) / n
    terms = np.where(enough, count * (gap**2 - share * (1 - share) / (n - 1)), 0)
    return terms.sum(-1) / np.where(total > 0, total, np.nan)
