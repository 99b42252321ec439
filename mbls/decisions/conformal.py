r"""Promises for a new patient from the errors of others: split conformal and risk control.

Both hold for any network, if the new patient is exchangeable with those who calibrate: drawn alike,
scanned and outlined alike. They are averages over the choice of the calibrating patients, as they
are over the new one.
"""

import math

import numpy as np
from scipy.stats import binomtest

__all__ = [
    "check_level",
    "conformal_quantile",
    "controlled_place",
    "crps",
    "patients_needed",
    "share_interval",
]

_ROUNDING = 1e-9  # (n + 1)(1 - alpha) is whole for the usual levels, but not in binary


def check_level(name: str, value: float) -> float:
    """Return a level.

    Raises:
        ValueError: It is not in (0, 1).
    """
    if not 0 < value < 1:
        raise ValueError(f"{name} must be above 0 and below 1, got {value:g}.")
    return value


def patients_needed(level: float) -> int:
    r"""Return the least number of patients for a promise, :math:`\lceil 1/level \rceil - 1`.

    With fewer, the patient who comes next may be the worst of all with a probability above the
    level, whatever the others say.

    Example:
        >>> patients_needed(0.1), patients_needed(0.05)
        (9, 19)
    """
    return math.ceil(1 / level - _ROUNDING) - 1


def conformal_quantile(scores: np.ndarray, alpha: float) -> float:
    r"""Return the :math:`\lceil (n+1)(1-\alpha) \rceil`-th smallest of n scores.

    A new score, exchangeable with these, is at most as large with probability :math:`1 - \alpha` or
    more (Vovk et al. 2005; Angelopoulos and Bates 2021, arXiv:2107.07511, section 1). With fewer
    than :func:`patients_needed` it is infinite.

    Args:
        scores: One of each patient ``(n,)``.
        alpha: Share of new patients whose score may be larger.

    Example:
        >>> conformal_quantile(np.arange(1.0, 10.0), 0.1), conformal_quantile(np.arange(8.0), 0.1)
        (9.0, inf)
    """
    rank = math.ceil((len(scores) + 1) * (1 - alpha) - _ROUNDING)
    return math.inf if rank > len(scores) else float(np.sort(scores)[rank - 1])


def controlled_place(losses: np.ndarray, level: float) -> int:
    r"""Return the first of nested masks whose risk is controlled (conformal risk control).

    It is the first with :math:`(n \hat R + 1)/(n + 1) \le level`, and the last one if there is
    none. The expected loss of a new patient is then at most the level (Angelopoulos et al. 2022,
    arXiv:2208.02814, theorem 1), if the losses of the last are 0.

    Args:
        losses: In [0, 1], of each patient for each mask ``(n, masks)``, never rising along the
            masks.
        level: Bound of the expected loss.

    Example:
        >>> controlled_place(np.array([[1.0, 0.4, 0.0]] * 9), 0.5)  # (9 * 0.4 + 1) / 10 = 0.46
        1
    """
    bound = (losses.sum(axis=0) + 1) / (len(losses) + 1)
    enough = np.flatnonzero(bound <= level + _ROUNDING)
    return int(enough[0]) if len(enough) else losses.shape[1] - 1


def share_interval(hits: int, number: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a share (Clopper and Pearson 1934).

    Example:
        >>> [round(limit, 3) for limit in share_interval(9, 10)]
        [0.555, 0.997]
    """
    found = binomtest(hits, number).proportion_ci(level, method="exact")
    return float(found.low), float(found.high)


def crps(values: np.ndarray, weights: np.ndarray, truth: float) -> float:
    r"""Return :math:`E|X - y| - E|X - X'|/2` of a weighted sample (Gneiting and Raftery 2007).

    The continuous ranked probability score, in the unit of the values; of a single value it is the
    absolute error.

    Args:
        values: The sample ``(n,)``.
        weights: Their probabilities ``(n,)``.
        truth: What happened, y.

    Example:
        >>> crps(np.array([1.0, 3.0]), np.array([0.5, 0.5]), 2.0)
        0.5
    """
    order = np.argsort(values)
    values, weights = values[order], weights[order]
    below = np.cumsum(weights) - weights / 2
    spread = 2 * np.sum(weights * values * (2 * below - 1))  # E|X - X'|
    return float(np.sum(weights * np.abs(values - truth)) - spread / 2)
