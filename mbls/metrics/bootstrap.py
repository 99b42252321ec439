"""Bootstrap intervals over patients, from the integer sums of each case.

Patients are resampled, not cases or voxels: the two frames of one heart, and the voxels of one
volume, are not independent. Sums over the drawn patients are exact (integers are split into two
halves that fit into float64), so intervals are bitwise reproducible.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import t as student

from mbls.metrics._kernel.fixed_point import FIXED_ONE, LOG_ONE
from mbls.metrics.bins import Against, CalibrationBins
from mbls.metrics.estimates import Pooling, case_values, compared, table_values

DRAWS = 10_000
LEVEL = 0.95
SEED = 20200101
_HALF = 24
_BLOCK = 500


def patient_weights(patients: Sequence[str], draws: int = DRAWS, seed: int = SEED) -> np.ndarray:
    """Return how often each case is drawn, float64 ``(draws, cases)``.

    Each draw takes P of the P patients with replacement, with all their cases.
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
    """Return the percentile interval of drawn values without NaN; None if too few remain."""
    kept = values[~np.isnan(values)]
    if len(kept) < len(values) / 2 or not len(kept):
        return None
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def corrected(
    value: float, drawn: np.ndarray, patients: int, level: float = LEVEL
) -> tuple[float, float, float] | None:
    r"""Return a value corrected for its bias over patients, and Student's interval around it.

    Random gaps bias a sum of absolute gaps upward, and the bootstrap draws by about the same amount
    again: :math:`b = \overline{\theta^*} - \hat\theta`. A percentile interval can therefore lie
    entirely above the true error. This interval is
    :math:`\hat\theta - b \pm t_{P-1}\,s^*\sqrt{P/(P-1)}`, clipped at 0, with the draws' standard
    deviation :math:`s^*` and P patients. Bias that is common to all patients, and noise within
    cases of an average over cases, cannot be corrected by resampling patients.

    Args:
        value: A non-negative error.
        drawn: Its values over draws; None is returned if more than half are NaN.
        patients: P, at least two.
        level: Level of the interval.
    """
    kept = drawn[~np.isnan(drawn)]
    if len(kept) < len(drawn) / 2 or np.isnan(value):
        return None
    middle = 2 * value - float(kept.mean())
    spread = float(kept.std()) * (patients / (patients - 1)) ** 0.5
    reach = float(student.ppf((1 + level) / 2, patients - 1)) * spread
    return max(middle, 0.0), max(middle - reach, 0.0), max(middle + reach, 0.0)


def drawn_tables(
    bins: CalibrationBins,
    weights: np.ndarray,
    region: str,
    n_bins: int,
    *,
    against: Against = "label",
) -> Iterator[np.ndarray]:
    """Yield the pooled tables of blocks of draws, ``(3, block, [R,] channels, n_bins)`` each.

    They equal :meth:`CalibrationBins.table` of the drawn cases, computed from integer sums.
    """
    sums = bins.integers(region, n_bins, against=against)
    scale = FIXED_ONE
    for start in range(0, len(weights), _BLOCK):
        block = weights[start : start + _BLOCK]
        count, hits, gap = np.moveaxis(exact_sums(block, sums), -1, 0)
        if against == "posterior":
            count, hits = count / scale, hits / scale
        yield np.stack([count, hits, hits - gap / scale])


def mean_of_draws(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean over the cases of each draw, ``(draws, ...)``, skipping NaN.

    Args:
        values: ``(cases, ...)``, NaN if undefined for a case.
        weights: ``(draws, cases)``.
    """
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    result = np.empty((len(weights), *values.shape[1:]))
    for start in range(0, len(weights), _BLOCK):
        block = weights[start : start + _BLOCK]
        # einsum without BLAS adds in the order of the cases, for any number of threads
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
        bins: Histogram per case.
        metrics: Names, see :func:`mbls.metrics.case_values`.
        weights: ``(draws, cases)`` of :func:`patient_weights`.
        region: Region of the voxels.
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
    kinds: tuple[Against, ...] = ("label", "posterior", "readers")
    for against in kinds:
        chosen = [m for m in metrics if compared(m)[0] == against and m not in result]
        if chosen:
            blocks = [
                [table_values(bins, t, m, region=region) for m in chosen]
                for t in drawn_tables(bins, weights, region, n_bins, against=against)
            ]
            drawn = np.concatenate([np.stack(b) for b in blocks], axis=1)
            result |= dict(zip(chosen, drawn, strict=True))
    return {m: result[m] for m in metrics}
