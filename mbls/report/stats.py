r"""Statistics over runs: what a table of losses, seeds and patients may claim.

A loss that was trained with S seeds and tested on P patients gives a table of values
:math:`y_{sp}`. Its rows are what a seed drew, its columns what a patient brought along, and both
would be others in the next study, so both are random effects:
:math:`y_{sp} = \mu + a_s + b_p + e_{sp}`. Two losses share the patients and no seed. Cases of one
patient are never counted as observations of their own.

Metrics of pooled voxels are no means over patients. Their table holds jackknife pseudo-values
(:func:`pseudo_values`), whose means behave as such (Tukey 1958; Efron and Tibshirani 1993, ch. 11).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

LEVEL = 0.95
FLIPS = 9999
SMALLEST = 1e-12
"""No p-value is given below it."""
ENOUGH_SEEDS = 3
"""Fewest seeds a loss for which no caution is given; with two a test keeps its level, no more."""
ENOUGH_PATIENTS = 10
"""Fewest patients for which intervals over values that are not skewed are not cautioned."""
ENOUGH_PATIENTS_SKEWED = 100
"""Fewest patients for which intervals over values as skewed as exponential ones (2) hold."""
SHORT = 0.01
"""What skewness may take from an interval's level before a caution names the measure."""


@dataclass(frozen=True)
class Effect:
    """A mean, or a difference of means, over patients and seeds.

    Attributes:
        value: The mean or difference; NaN where a patient's is.
        low: Lower limit of its interval; NaN with it, and where seeds are too few to have one.
        high: Upper limit.
        p: Two-sided p-value of "there is no difference"; NaN where there is no interval.
        se_patients: Standard error that comes from the patients.
        se_seeds: Standard error that comes from the seeds; NaN for a single seed.
    """

    value: float
    low: float
    high: float
    p: float
    se_patients: float
    se_seeds: float


def pseudo_values(whole: np.ndarray, without: np.ndarray) -> np.ndarray:
    r"""Return :math:`P\hat\theta - (P-1)\hat\theta_{(-p)}`, float64 ``(P, ...)``.

    For a mean over patients they are the patients' own values.

    Args:
        whole: The metric of all patients, ``(...)``.
        without: The metric with one patient left out, ``(P, ...)``.
    """
    patients = len(without)
    return patients * whole - (patients - 1) * without


def loss_effect(values: np.ndarray, *, value: float | None = None, level: float = LEVEL) -> Effect:
    """Return the mean of one loss over patients and seeds, without a p-value.

    Args:
        values: ``(S, P)``, a row a seed.
        value: The mean that is shown, where it is not that of the values.
        level: Of the interval.
    """
    patients, seeds = _patient_part(values.mean(0)), _seed_part(values)
    shown = float(values.mean()) if value is None else value
    return _combine(shown, patients, seeds, level, tested=False)


def difference(
    first: np.ndarray, second: np.ndarray, *, value: float | None = None, level: float = LEVEL
) -> Effect:
    r"""Return the difference of two losses over the same patients, each with its own seeds.

    With :math:`d_p` the difference of patient p, averaged over the seeds, the standard error from
    patients is that of the mean of :math:`d_p`. The one from seeds is what the seeds' means vary
    beyond it: their variance :math:`w_S^2` less the interaction that the patients' part holds
    already, or nothing. An interval's half-width is
    :math:`\sqrt{(t_{P-1} s_P)^2 + (t_\nu s_S)^2}`, each standard error with Student's quantile of
    its own degrees of freedom (Graybill and Wang 1980; Zou and Donner 2008), :math:`\nu` by Welch;
    but never below :math:`t_\nu w_S`, what the seeds' means alone allow, since few seeds often
    show no variance beyond the interaction where there is some. The p-value is the level at which
    the interval touches zero.

    Args:
        first: ``(S, P)``.
        second: ``(S', P)``, the same patients in the same order.
        value: The difference that is shown, where it is not that of the means.
        level: Of the interval.

    Raises:
        ValueError: The numbers of patients differ.
    """
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"Two losses are compared on the same patients, got {first.shape[1]} and "
            f"{second.shape[1]}."
        )
    patients = _patient_part(first.mean(0) - second.mean(0))
    seeds = _both(_seed_part(first), _seed_part(second))
    shown = float(first.mean() - second.mean()) if value is None else value
    return _combine(shown, patients, seeds, level)


def sign_flip(differences: np.ndarray, *, flips: int = FLIPS) -> np.ndarray:
    """Return two-sided p-values of a zero mean under random signs, ``(...)``.

    All signs are tried where there are no more than ``flips`` patterns, else that many are drawn.
    It holds for the networks that were trained, and for any distribution that is symmetric about
    its mean.

    Args:
        differences: One a patient, ``(P, ...)``; a column with NaN gives NaN.
        flips: Draws of signs.
    """
    patients = len(differences)
    flat = differences.reshape(patients, -1)
    if exact := 2 ** (patients - 1) <= flips:  # the mirrored half gives the same
        signs = 1.0 - 2.0 * ((np.arange(2 ** (patients - 1))[:, None] >> np.arange(patients)) & 1)
    else:
        signs = 2.0 * np.random.default_rng(0).integers(0, 2, (flips, patients)) - 1.0
    found = np.abs(flat.sum(0))
    least = found * (1 - 1e-12)
    reached = (np.abs(signs @ flat) >= least).sum(0)
    p = reached / len(signs) if exact else (1 + reached) / (1 + flips)
    return np.where(np.isnan(found), np.nan, p).reshape(differences.shape[1:])


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values (1979); a NaN stays one and counts for no comparison.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    known = [i for i, p in enumerate(p_values) if p == p]
    adjusted = [float("nan")] * len(p_values)
    least = 0.0
    for rank, i in enumerate(sorted(known, key=lambda i: p_values[i])):
        least = max(least, min(1.0, (len(known) - rank) * p_values[i]))
        adjusted[i] = round(least, 12)
    return adjusted


def patient_interval(
    value: float, drawn: np.ndarray, patients: int, *, level: float = LEVEL
) -> tuple[float, float]:
    r"""Return :math:`\hat\theta \pm t_{P-1}\, s^*\sqrt{P/(P-1)}`, Student's interval over patients.

    The drawn values' standard deviation :math:`s^*` is too small by the root, and their
    percentiles are those of a normal variable, which few patients are not. For a mean over patients
    it is the interval of the t-test. NaN where more than half of the draws are NaN.

    Args:
        value: The metric of all patients.
        drawn: The metric in each draw of patients.
        patients: P, two at least.
        level: Share of the distribution inside.
    """
    kept = drawn[~np.isnan(drawn)]
    if len(kept) < max(1, len(drawn) / 2) or np.isnan(value):
        return float("nan"), float("nan")
    spread = float(kept.std()) * (patients / (patients - 1)) ** 0.5
    reach = float(stdtrit(patients - 1, (1 + level) / 2)) * spread
    return value - reach, value + reach


def lacking(values: np.ndarray) -> float:
    r"""Return the share of its level that Student's interval lacks where values are skewed.

    :math:`2\,z\,\varphi(z)\,\gamma^2 (z^4 + 2z^2 - 3) / (18 P)`, the term of skewness
    :math:`\gamma` in the Edgeworth expansion of the mean's coverage (Hall 1992, section 3.5), with
    the sample's skewness. A sample shows less of it than is there. Values that differ by no more
    than rounding, 1e-9 of their size, have none.

    Args:
        values: One a patient, ``(P,)``.
    """
    z = float(ndtri((1 + LEVEL) / 2))
    gaps = values - values.mean()
    variance = float((gaps**2).mean())
    constant = variance <= (1e-9 * float(np.abs(values).max())) ** 2
    skewness = 0.0 if constant else float((gaps**3).mean()) / variance**1.5
    density = np.exp(-(z**2) / 2) / (2 * np.pi) ** 0.5
    return float(2 * z * density * skewness**2 * (z**4 + 2 * z**2 - 3) / 18) / len(values)


def cautions(seeds: Sequence[int], patients: int) -> list[str]:
    """Return what the numbers of seeds and patients do not allow to claim, a sentence each.

    Args:
        seeds: How many seeds each loss has.
        patients: How many patients were tested.
    """
    fewest, said = min(seeds), []
    if fewest == 1:
        said.append(
            "A loss has a single seed: its tests and intervals speak of the networks that were "
            "trained, not of the losses. Two trainings with the same loss differ as well, and are "
            "found different more often than the level says."
        )
    elif fewest < ENOUGH_SEEDS:
        said.append(
            f"A loss has {fewest} seeds, which say little about how trainings differ: its tests "
            "keep their level and its intervals hold, but they find large differences alone."
        )
    if patients < ENOUGH_PATIENTS:
        said.append(
            f"{patients} patients are few: intervals over values that are skewed are too short. In "
            "simulations they held the truth in 86 to 91 % of trials, not 95 %."
        )
    elif patients < ENOUGH_PATIENTS_SKEWED:
        said.append(
            f"With {patients} patients, intervals over values that are skewed are too short: in "
            "simulations they held the truth in 87 to 94 % of trials, not 95 %."
        )
    if patients < 6:
        said.append(
            f"With {patients} patients no test by signs can give p < {2 / 2**patients:.2g}."
        )
    return said


@dataclass(frozen=True)
class _Seeds:
    """What the seeds of one loss or of two say: variances of the mean and degrees of freedom."""

    within: float  # variance of the mean of the seeds' means
    doubled: float  # interaction in it, which the patients' part holds too
    dof: float


def _patient_part(values: np.ndarray) -> tuple[float, float]:
    """Return the variance of the mean of ``(P,)`` over patients, and its degrees of freedom."""
    return float(values.var(ddof=1)) / len(values), len(values) - 1


def _seed_part(values: np.ndarray) -> _Seeds | None:
    """Return what the seeds of ``(S, P)`` say; None for a single seed."""
    seeds, patients = values.shape
    if seeds == 1:
        return None
    rows = values.mean(1, keepdims=True)
    rest = values - rows - values.mean(0) + values.mean()
    interaction = float((rest**2).sum()) / ((seeds - 1) * (patients - 1))
    within = float(rows.var(ddof=1)) / seeds
    return _Seeds(within, interaction / (seeds * patients), seeds - 1)


def _both(first: _Seeds | None, second: _Seeds | None) -> _Seeds | None:
    """Return the part of a difference of two losses, with Welch's degrees of freedom."""
    if first is None or second is None:
        return None
    within = first.within + second.within
    spread = first.within**2 / first.dof + second.within**2 / second.dof
    dof = within**2 / spread if spread else first.dof + second.dof
    return _Seeds(within, first.doubled + second.doubled, dof)


def _combine(
    value: float,
    patients: tuple[float, float],
    seeds: _Seeds | None,
    level: float,
    *,
    tested: bool = True,
) -> Effect:
    """Return the effect whose interval joins the two parts."""
    variance, dof = patients
    nan = float("nan")
    if not np.isfinite([value, variance, 0.0 if seeds is None else seeds.within]).all():
        return Effect(value, nan, nan, nan, nan, nan)
    if seeds is None:
        return Effect(value, nan, nan, nan, variance**0.5, nan)
    extra = max(seeds.within - seeds.doubled, 0.0)

    def reach(alpha: float) -> float:
        by_patients, by_seeds = (stdtrit(d, alpha / 2) ** 2 for d in (dof, seeds.dof))
        both = variance * by_patients + extra * by_seeds
        return float(max(both, seeds.within * by_seeds)) ** 0.5

    half = reach(1 - level)
    p = _level_at(abs(value), reach) if tested else float("nan")
    return Effect(value, value - half, value + half, p, variance**0.5, extra**0.5)


def _level_at(distance: float, reach: Callable[[float], float]) -> float:
    """Return the alpha at which an interval of half-width ``reach(alpha)`` ends at ``distance``."""
    if distance <= 0:
        return 1.0
    if reach(SMALLEST) <= distance:
        return SMALLEST
    return float(
        brentq(lambda alpha: reach(alpha) - distance, SMALLEST, 1.0, xtol=1e-12, rtol=1e-8)
    )
