"""Intervals by resampling patients, from the integer sums of each case.

Patients are drawn, not cases and not voxels: the two frames of one heart, and the voxels of one
volume, are no independent observations. Sums over the drawn patients are exact (integers are split
into two halves that float64 holds), so an interval has the same bits however it is computed.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import t as student

from mbls.metrics._kernel.fixed_point import FIXED_ONE, LOG_ONE
from mbls.metrics.bins import CalibrationBins
from mbls.metrics.estimates import Pooling, case_values, table_values

DRAWS = 10_000
LEVEL = 0.95
SEED = 20200101
_HALF = 24
_BLOCK = 500


def patient_weights(patients: Sequence[str], draws: int = DRAWS, seed: int = SEED) -> np.ndarray:
    """Return how often each case is drawn, float64 ``(draws, cases)``.

    Each draw takes as many patients as there are, with replacement; a patient's cases come along.
    """
    names = sorted(set(patients))
    position = {name: i for i, name in enumerate(names)}
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return counts[:, [position[p] for p in patients]].astype(np.float64)


def exact_sums(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return ``weights @ values`` for integers, each entry rounded once.

    Args:
        weights: Small whole numbers ``(draws, cases)``.
        values: int64 ``(cases, ...)``.
    """
    flat = values.reshape(len(values), -1)
    high, low = flat >> _HALF, flat & ((1 << _HALF) - 1)
    sums = (weights @ high.astype(np.float64)) * float(1 << _HALF)
    sums += weights @ low.astype(np.float64)
    return sums.reshape(len(weights), *values.shape[1:])


def interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float] | None:
    """Return the percentile interval of drawn values, without NaN; None if too few are left."""
    kept = values[~np.isnan(values)]
    if len(kept) < len(values) / 2 or not len(kept):
        return None
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def corrected(
    value: float, drawn: np.ndarray, patients: int, level: float = LEVEL
) -> tuple[float, float, float] | None:
    r"""Return a value corrected for its bias over patients, and Student's interval around it.

    A sum of absolute gaps is too high where chance makes gaps, and its drawn values are too high
    again by about as much: :math:`b = \overline{\theta^*} - \hat\theta`. So the percentile interval
    can lie above the true error as a whole. This one is
    :math:`\hat\theta - b \pm t_{P-1}\,s^*\sqrt{P/(P-1)}`, cut off at 0, with the drawn values'
    standard deviation :math:`s^*` and P patients. What all patients share, and noise within each
    case of an average over cases, no drawing of patients can show.

    Args:
        value: An error that cannot be negative.
        drawn: Its values over draws, without NaN; None is returned where fewer than half are left.
        patients: How many there are, two at least.
        level: Share of the distribution inside the interval.
    """
    kept = drawn[~np.isnan(drawn)]
    if len(kept) < len(drawn) / 2 or np.isnan(value):
        return None
    middle = 2 * value - float(kept.mean())
    spread = float(kept.std()) * (patients / (patients - 1)) ** 0.5
    reach = float(student.ppf((1 + level) / 2, patients - 1)) * spread
    return max(middle, 0.0), max(middle - reach, 0.0), max(middle + reach, 0.0)


def drawn_tables(
    bins: CalibrationBins, weights: np.ndarray, region: str, n_bins: int, *, expected: bool = False
) -> Iterator[np.ndarray]:
    """Yield the pooled tables of blocks of draws, ``(3, block, channels, n_bins)`` each.

    They are what :meth:`CalibrationBins.table` gives for the drawn cases, from sums of integers.
    """
    sums = bins.integers(region, n_bins, expected=expected)
    scale = FIXED_ONE
    for start in range(0, len(weights), _BLOCK):
        block = weights[start : start + _BLOCK]
        count, hits, gap = np.moveaxis(exact_sums(block, sums), -1, 0)
        if expected:
            count, hits = count / scale, hits / scale
        yield np.stack([count, hits, hits - gap / scale])


def mean_of_draws(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return for each draw the mean over its cases that have a value, ``(draws, ...)``.

    Args:
        values: ``(cases, ...)``, NaN where a case has none.
        weights: ``(draws, cases)``.
    """
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    result = np.empty((len(weights), *values.shape[1:]))
    for start in range(0, len(weights), _BLOCK):
        block = weights[start : start + _BLOCK]
        # einsum without BLAS adds in the order of the cases, whatever the number of threads.
        total = np.einsum("dc,c...->d...", block, filled, optimize=False)
        number = np.einsum("dc,c...->d...", block, known.astype(np.float64), optimize=False)
        with np.errstate(invalid="ignore", divide="ignore"):
            result[start : start + _BLOCK] = total / number
    return result


def drawn_values(
    bins: CalibrationBins,
    metrics: Sequence[str],
    weights: np.ndarray,
    *,
    region: str,
    pooling: Pooling,
    n_bins: int = 15,
) -> dict[str, np.ndarray]:
    """Return each metric's value in each draw.

    Args:
        bins: Histogram that keeps cases apart.
        metrics: Names as :func:`mbls.metrics.case_values` takes them.
        weights: ``(draws, cases)`` of :func:`patient_weights`.
        region: Which voxels.
        pooling: Sum the drawn cases first, or average their values.
        n_bins: A divisor of 60.

    Returns:
        float64 ``(draws,)`` for each name.
    """
    if pooling == "per_case":
        values = [case_values(bins, m, region=region, n_bins=n_bins) for m in metrics]
        drawn = mean_of_draws(np.stack(values, -1), weights)
        return dict(zip(metrics, drawn.T, strict=True))
    result: dict[str, np.ndarray] = {}
    sums = exact_sums(weights, bins.sums[:, bins.region(region)])
    with np.errstate(invalid="ignore", divide="ignore"):
        result["brier"] = sums[:, 1] / FIXED_ONE / sums[:, 0]
        result["nll"] = sums[:, 2] / LOG_ONE / sums[:, 0]
    for expected in (False, True):
        chosen = [m for m in metrics if m.startswith("true_") == expected and m not in result]
        if chosen:
            blocks = [
                [table_values(bins, t, m.removeprefix("true_"), region=region) for m in chosen]
                for t in drawn_tables(bins, weights, region, n_bins, expected=expected)
            ]
            drawn = np.concatenate([np.stack(b) for b in blocks], axis=1)
            result |= dict(zip(chosen, drawn, strict=True))
    return {m: result[m] for m in metrics}
