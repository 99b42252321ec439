"""The named metrics of a histogram: pooled over voxels, or per case and then averaged."""

from typing import Literal

import numpy as np

from mbls.metrics import catalog
from mbls.metrics.bins import Against, CalibrationBins
from mbls.metrics.catalog import Estimator

Pooling = Literal["pooled", "per_case"]
POOLINGS: tuple[Pooling, ...] = ("pooled", "per_case")
PREFIXES: dict[str, Against] = {"true": "posterior", "readers": "readers"}


def class_channels(bins: CalibrationBins, region: str) -> list[int]:
    """Return the channels that a class-wise metric averages.

    All classes; but in the labeled foreground without the background class, which cannot occur
    there: its term would be the mean background probability, not a calibration error.
    """
    first = 2 if region == "label" else 1
    return list(range(first, 1 + bins.num_classes))


def case_values(
    bins: CalibrationBins, metric: str, *, region: str = "all", n_bins: int = 15
) -> np.ndarray:
    """Return a metric of each case, ``(cases,)``; NaN for cases without voxels in the region.

    Args:
        bins: The histogram.
        metric: A key of :data:`mbls.metrics.catalog.METRICS`, or its noise floor ``"ece_floor"``;
            metrics of the top label also as ``"ece/<channel>"`` for one class or union. The prefix
            ``"true_"`` uses the expectation over the posterior instead of the labels, and
            ``"readers_"`` averages the values against each reader's labels.
        region: Region of the voxels.
        n_bins: A divisor of 60.

    Raises:
        ValueError: If the metric or region is unknown, or no posterior is known for ``"true_"``,
            or there is a single reader for ``"readers_"``.
    """
    if any(m.key == metric and m.of == "score" for m in catalog.METRICS):
        return bins.scores(region)[metric]
    table = bins.table(region, n_bins, against=compared(metric)[0])
    return table_values(bins, table, metric, region=region)


def compared(metric: str) -> tuple[Against, str]:
    """Return what a metric of :func:`case_values` compares with, and its name without prefix.

    Example:
        >>> compared("ece"), compared("readers_cece")
        (('label', 'ece'), ('readers', 'cece'))
    """
    prefix, _, key = metric.partition("_")
    return (PREFIXES[prefix], key) if prefix in PREFIXES else ("label", metric)


def table_values(
    bins: CalibrationBins, table: np.ndarray, metric: str, *, region: str = "all"
) -> np.ndarray:
    """Return one metric of a table of binned counts.

    Args:
        bins: The histogram, for its channels.
        table: ``(3, ..., channels, n_bins)``, from :meth:`CalibrationBins.table`; with a last
            axis ``R`` before the channels for the prefix ``"readers_"``, over which is averaged.
        metric: See :func:`case_values`; not a score.
        region: Region of the table.

    Returns:
        float64 ``(...)``.

    Raises:
        ValueError: If the metric is unknown.
    """
    against, name = compared(metric)
    if against == "readers":
        return _mean_of_readers(table_values(bins, table, name, region=region))
    key, _, channel = name.partition("/")
    for entry in catalog.METRICS:
        estimators = {entry.key: entry.value, f"{entry.key}_floor": entry.floor}
        value: Estimator | None = estimators.get(key)
        if value is not None and entry.of == "classes" and not channel:
            return value(*table[..., class_channels(bins, region), :]).mean(-1)
        if value is not None and entry.of == "top" and (channel or "top") in bins.channels:
            return value(*table[..., bins.channels.index(channel or "top"), :])
    known = {kind: [m.key for m in catalog.METRICS if m.of == kind]
             for kind in ("top", "classes", "score")}  # fmt: skip
    raise ValueError(
        f"metric must be one of {known}, or of the first with '/' and a channel of "
        f"{bins.channels}, got {metric!r}."
    )


def _mean_of_readers(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis without NaN: readers who labeled nothing in a region."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(-1) / known.sum(-1)


def estimate(
    bins: CalibrationBins,
    metric: str,
    *,
    region: str = "all",
    pooling: Pooling = "pooled",
    n_bins: int = 15,
) -> tuple[float, int]:
    """Return a metric's value and the number of cases in it.

    Args:
        bins: The histogram; ``"per_case"`` needs a histogram per case.
        metric: See :func:`case_values`.
        region: Region of the voxels.
        pooling: ``"pooled"`` sums the cases first; ``"per_case"`` averages the values of those
            cases that have voxels in the region.
        n_bins: A divisor of 60.

    Raises:
        ValueError: For unknown settings, or ``"per_case"`` of a pooled histogram.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {POOLINGS}, got {pooling!r}.")
    filled = int((bins.sums[:, bins.region(region), 0] > 0).sum())
    if pooling == "pooled":
        return float(case_values(bins.pool(), metric, region=region, n_bins=n_bins)[0]), filled
    if bins.pooled:
        raise ValueError("per_case needs a histogram with num_cases, got one that pools cases.")
    values = case_values(bins, metric, region=region, n_bins=n_bins)
    kept = values[~np.isnan(values)]
    return (float(kept.mean()) if kept.size else float("nan")), int(kept.size)
