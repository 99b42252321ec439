"""The named metrics of a histogram: pooled over voxels, or per case and then averaged."""

from typing import Literal

import numpy as np

from mbls.metrics import catalog
from mbls.metrics.bins import CalibrationBins
from mbls.metrics.catalog import Estimator

Pooling = Literal["pooled", "per_case"]
POOLINGS: tuple[Pooling, ...] = ("pooled", "per_case")


def class_channels(bins: CalibrationBins, region: str) -> list[int]:
    """Return the channels that a class-wise metric averages.

    All classes, except that the labelled foreground leaves out the background class, which cannot
    occur there: its term would be the mean background probability and no calibration error.
    """
    first = 2 if region == "label" else 1
    return list(range(first, 1 + bins.num_classes))


def case_values(
    bins: CalibrationBins, metric: str, *, region: str = "all", n_bins: int = 15
) -> np.ndarray:
    """Return one metric of each case, ``(cases,)``; NaN where a case has no voxel in the region.

    Args:
        bins: The histogram.
        metric: A key of :data:`mbls.metrics.catalog.METRICS`, or its noise floor ``"ece_floor"``;
            of the top label's also ``"ece/<channel>"`` for one class or union. With the prefix
            ``"true_"`` the expectation over the posterior takes the place of the labels.
        region: Which voxels.
        n_bins: A divisor of 60.

    Raises:
        ValueError: If the metric or region is unknown, or no posterior is known for ``"true_"``.
    """
    if any(m.key == metric and m.of == "score" for m in catalog.METRICS):
        return bins.scores(region)[metric]
    expected = metric.startswith("true_")
    table = bins.table(region, n_bins, expected=expected)
    return table_values(bins, table, metric.removeprefix("true_"), region=region)


def table_values(
    bins: CalibrationBins, table: np.ndarray, metric: str, *, region: str = "all"
) -> np.ndarray:
    """Return one metric of a table of binned counts.

    Args:
        bins: Says which channels there are.
        table: ``(3, ..., channels, n_bins)``, as :meth:`CalibrationBins.table` returns it.
        metric: As :func:`case_values` takes it, without prefix; no score.
        region: The region the table is of.

    Returns:
        float64 ``(...)``.

    Raises:
        ValueError: If the metric is unknown.
    """
    key, _, channel = metric.partition("/")
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
        bins: The histogram; ``"per_case"`` needs one that keeps cases apart.
        metric: As :func:`case_values` takes it.
        region: Which voxels.
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
        raise ValueError("This histogram pooled its cases; per_case needs one with num_cases.")
    values = case_values(bins, metric, region=region, n_bins=n_bins)
    kept = values[~np.isnan(values)]
    return (float(kept.mean()) if kept.size else float("nan")), int(kept.size)
