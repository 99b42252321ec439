"""The named metrics of a histogram: pooled over voxels, or per case and then averaged."""

from collections.abc import Callable
from typing import Literal

import numpy as np

from mbls.metrics.bins import CalibrationBins
from mbls.metrics.calibration import (
    average_error,
    expected_error,
    maximum_error,
    over_error,
    signed_error,
    under_error,
)
from mbls.metrics.floor import debiased_square, expected_error_floor

Pooling = Literal["pooled", "per_case"]
POOLINGS: tuple[Pooling, ...] = ("pooled", "per_case")
Estimator = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def expected_error_l2(count: np.ndarray, hits: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Return the root of the count-weighted mean squared gap."""
    return expected_error(count, hits, confidence, norm="l2")


TOP_METRICS: dict[str, Estimator] = {
    "ece": expected_error,
    "ece_l2": expected_error_l2,
    "ace": average_error,
    "mce": maximum_error,
    "signed": signed_error,
    "over": over_error,
    "under": under_error,
    "ece_floor": expected_error_floor,
    "ece_debiased_square": debiased_square,
}
"""Metrics of the top label."""
CLASS_METRICS: dict[str, Estimator] = {
    "cece": expected_error,
    "cece_l2": expected_error_l2,
    "cace": average_error,
    "cmce": maximum_error,
    "cece_floor": expected_error_floor,
    "cece_debiased_square": debiased_square,
}
"""Metrics of each class against the rest, averaged over classes."""
SCORE_METRICS = ("brier", "nll")


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
        metric: A key of :data:`TOP_METRICS` or :data:`CLASS_METRICS`, ``"brier"``, ``"nll"``, or
            ``"ece/<channel>"`` for one class or union; with the prefix ``"true_"`` the expectation
            over the posterior takes the place of the labels.
        region: Which voxels.
        n_bins: A divisor of 60.

    Raises:
        ValueError: If the metric or region is unknown, or no posterior is known for ``"true_"``.
    """
    if metric in SCORE_METRICS:
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
    if metric in CLASS_METRICS:
        channels = class_channels(bins, region)
        return CLASS_METRICS[metric](*table[..., channels, :]).mean(-1)
    base, _, channel = metric.partition("/")
    if base in TOP_METRICS and (channel or "top") in bins.channels:
        return TOP_METRICS[base](*table[..., bins.channels.index(channel or "top"), :])
    raise ValueError(
        f"metric must be one of {(*TOP_METRICS, *CLASS_METRICS, *SCORE_METRICS)}, or one of the "
        f"first with '/' and a channel of {bins.channels}, got {metric!r}."
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
