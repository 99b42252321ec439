r"""Statistics over losses, seeds and patients.

A loss that was trained with S seeds and tested on P patients gives a table of values
:math:`y_{sp}`. Seeds and patients would differ in another study, so both are random effects:
:math:`y_{sp} = \mu + a_s + b_p + e_{sp}`. Two losses share the patients but not the seeds. Cases of
one patient are never treated as independent observations.

Metrics of pooled voxels are not means over patients. Their table has jackknife pseudo-values
(:func:`pseudo_values`), whose means behave like them (Tukey 1958; Efron and Tibshirani 1993,
ch. 11).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

LEVEL = 0.95
FLIPS = 9999
SMALLEST = 1e-12
"""Smallest p-value."""
ENOUGH_SEEDS = 3
"""Minimum number of seeds without a caution; with two, tests keep their level but lack power."""
ENOUGH_PATIENTS = 10
"""Minimum number of patients without a caution if values are not skewed."""
ENOUGH_PATIENTS_SKEWED = 100
"""Minimum number of patients for intervals of values with a skewness of 2 (exponential)."""
SHORT = 0.01
"""Loss of coverage by skewness above which a caution names the measure."""


@dataclass(frozen=True)
class Effect:
    """A mean, or a difference of means, over patients and seeds.

    Attributes:
        value: The mean or difference; NaN if that of a patient is.
        low: Lower limit of the interval; NaN if ``value`` is, or with too few seeds.
        high: Upper limit.
        p: Two-sided p-value of "there is no difference"; NaN without an interval.
        se_patients: Standard error due to patients.
        se_seeds: Standard error due to seeds; NaN for a single seed.
    """

    value: float
    low: float
    high: float
    p: float
    se_patients: float
    se_seeds: float


def pseudo_values(whole: np.ndarray, without: np.ndarray) -> np.ndarray:
    r"""Return :math:`P\hat\theta - (P-1)\hat\theta_{(-p)}`, float64 ``(P, ...)``.

    For a mean over patients they equal the patients' values.

    Args:
        whole: The metric of all patients, ``(...)``.
        without: The metric without each patient, ``(P, ...)``.
    """
    patients = len(without)
    return patients * whole - (patients - 1) * without


def loss_effect(values: np.ndarray, *, value: float | None = None, level: float = LEVEL) -> Effect:
    """Return the mean of one loss over patients and seeds, without a p-value.

    Args:
        values: ``(S, P)``, one row per seed.
        value: The reported mean, if it differs from that of ``values``.
        level: Level of the interval.
    """
    patients, seeds = _patient_part(values.mean(0)), _seed_part(values)
    shown = float(values.mean()) if value is None else value
    return _combine(shown, patients, seeds, level, tested=False)


def difference(
    first: np.ndarray, second: np.ndarray, *, value: float | None = None, level: float = LEVEL
) -> Effect:
    r"""Return the difference of two losses over the same patients, each with its own seeds.

    With :math:`d_p` the difference of patient p, averaged over seeds, the standard error due to
    patients, :math:`s_P`, is that of the mean of :math:`d_p`. That due to seeds, :math:`s_S`, is
    the variance of the seeds' means, :math:`w_S^2`, minus the interaction that :math:`s_P` already
    contains, or 0. The half-width of an interval is
    :math:`\sqrt{(t_{P-1} s_P)^2 + (t_\nu s_S)^2}`, with Student's quantiles of the respective
    degrees of freedom (Graybill and Wang 1980; Zou and Donner 2008), :math:`\nu` by Welch; but at
    least :math:`t_\nu w_S`, since few seeds often show no variance beyond the interaction even if
    there is some. The p-value is the level at which the interval touches zero.

    Args:
        first: ``(S, P)``.
        second: ``(S', P)``, the same patients in the same order.
        value: The reported difference, if it differs from that of the means.
        level: Level of the interval.

    Raises:
        ValueError: The numbers of patients differ.
    """
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"Two losses must have the same patients, got {first.shape[1]} and {second.shape[1]}."
        )
    patients = _patient_part(first.mean(0) - second.mean(0))
    seeds = _both(_seed_part(first), _seed_part(second))
    shown = float(first.mean() - second.mean()) if value is None else value
    return _combine(shown, patients, seeds, level)


def sign_flip(differences: np.ndarray, *, flips: int = FLIPS) -> np.ndarray:
    """Return two-sided p-values of a zero mean under random signs, ``(...)``.

    All patterns of signs are enumerated if there are at most ``flips``, else that many are drawn.
    The test is conditional on the trained networks, and valid for distributions that are symmetric
    about their mean.

    Args:
        differences: One per patient, ``(P, ...)``; a column with NaN gives NaN.
        flips: Number of draws.
    """
    patients = len(differences)
    flat = differences.reshape(patients, -1)
    if exact := 2 ** (patients - 1) <= flips:  # the other half is symmetric
        signs = 1.0 - 2.0 * ((np.arange(2 ** (patients - 1))[:, None] >> np.arange(patients)) & 1)
    else:
        signs = 2.0 * np.random.default_rng(0).integers(0, 2, (flips, patients)) - 1.0
    found = np.abs(flat.sum(0))
    least = found * (1 - 1e-12)
    reached = (np.abs(signs @ flat) >= least).sum(0)
    p = reached / len(signs) if exact else (1 + reached) / (1 + flips)
    return np.where(np.isnan(found), np.nan, p).reshape(differences.shape[1:])


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values (1979); NaN stays NaN and is not counted.

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

    With few patients, the bootstrap's standard deviation :math:`s^*` is too small by the factor
    under the root, and its percentiles by the ratio of normal to Student's quantiles. For a mean
    over patients this is the interval of the t-test. NaN if more than half of the draws are NaN.

    Args:
        value: The metric of all patients.
        drawn: The metric in each bootstrap draw.
        patients: P, at least two.
        level: Level of the interval.
    """
    kept = drawn[~np.isnan(drawn)]
    if len(kept) < max(1, len(drawn) / 2) or np.isnan(value):
        return float("nan"), float("nan")
    spread = float(kept.std()) * (patients / (patients - 1)) ** 0.5
    reach = float(stdtrit(patients - 1, (1 + level) / 2)) * spread
    return value - reach, value + reach


def lacking(values: np.ndarray) -> float:
    r"""Return by how much the coverage of Student's interval is too low due to skewness.

    :math:`2\,z\,\varphi(z)\,\gamma^2 (z^4 + 2z^2 - 3) / (18 P)`, the term of skewness
    :math:`\gamma` in the Edgeworth expansion of the mean's coverage (Hall 1992, section 3.5), with
    the sample's skewness, which tends to be too small. It is 0 for values that differ only by
    rounding (1e-9 of their size).

    Args:
        values: One per patient, ``(P,)``.
    """
    z = float(ndtri((1 + LEVEL) / 2))
    gaps = values - values.mean()
    variance = float((gaps**2).mean())
    constant = variance <= (1e-9 * float(np.abs(values).max())) ** 2
    skewness = 0.0 if constant else float((gaps**3).mean()) / variance**1.5
    density = np.exp(-(z**2) / 2) / (2 * np.pi) ** 0.5
    return float(2 * z * density * skewness**2 * (z**4 + 2 * z**2 - 3) / 18) / len(values)


def cautions(seeds: Sequence[int], patients: int) -> list[str]:
    """Return the limitations due to few seeds or patients, as sentences.

    Args:
        seeds: Number of seeds of each loss.
        patients: Number of tested patients.
    """
    fewest, notes = min(seeds), []
    if fewest == 1:
        notes.append(
            "A loss has a single seed: its tests and intervals are about the trained networks, not "
            "about the losses. Two trainings with the same loss also differ significantly more "
            "often than the level."
        )
    elif fewest < ENOUGH_SEEDS:
        notes.append(
            f"A loss has {fewest} seeds, too few to estimate how trainings differ: its tests and "
            "intervals are valid, but detect only large differences."
        )
    if patients < ENOUGH_PATIENTS:
        notes.append(
            f"With {patients} patients, intervals of skewed values are too short: in simulations "
            "their coverage was 86 to 91 %, not 95 %."
        )
    elif patients < ENOUGH_PATIENTS_SKEWED:
        notes.append(
            f"With {patients} patients, intervals of skewed values are too short: in simulations "
            "their coverage was 87 to 94 %, not 95 %."
        )
    if patients < 6:
        notes.append(
            f"With {patients} patients, no sign-flip test can give p < {2 / 2**patients:.2g}."
        )
    return notes


@dataclass(frozen=True)
class _Seeds:
    """Variances due to the seeds of one loss, or of two, and degrees of freedom."""

    within: float  # variance of the mean of the seeds' means
    doubled: float  # interaction in it, which the patients' part contains as well
    dof: float


def _patient_part(values: np.ndarray) -> tuple[float, float]:
    """Return the variance of the mean of ``(P,)`` over patients, and its degrees of freedom."""
    return float(values.var(ddof=1)) / len(values), len(values) - 1


def _seed_part(values: np.ndarray) -> _Seeds | None:
    """Return the variances due to the seeds of ``(S, P)``, or None for a single seed."""
    seeds, patients = values.shape
    if seeds == 1:
        return None
    rows = values.mean(1, keepdims=True)
    rest = values - rows - values.mean(0) + values.mean()
    interaction = float((rest**2).sum()) / ((seeds - 1) * (patients - 1))
    within = float(rows.var(ddof=1)) / seeds
    return _Seeds(within, interaction / (seeds * patients), seeds - 1)


def _both(first: _Seeds | None, second: _Seeds | None) -> _Seeds | None:
    """Return the seeds' part of a difference of two losses, with Welch's degrees of freedom."""
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
    """Return the effect whose interval combines the parts of patients and seeds."""
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
