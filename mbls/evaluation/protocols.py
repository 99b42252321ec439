"""ECE as computed by published code, including its quirks, from the same histogram.

The numbers of a protocol are comparable with those of its paper; every table also has the sound
value. The published codes share: 15 right-closed bins from ``linspace(0, 1)``, probabilities of
exactly 0 in no bin, and as many classes as the largest observed label plus one. Here a volume
replaces an image or a batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from mbls.metrics.bins import CalibrationBins
from mbls.metrics.bootstrap import interval, mean_of_draws
from mbls.metrics.calibration import average_error, expected_error, maximum_error
from mbls.metrics.dice import dice_scores
from mbls.metrics.estimates import case_values


@dataclass(frozen=True)
class Protocol:
    """One published way to compute calibration.

    Attributes:
        name: Key in ``metrics.json``.
        source: Publication.
        region: Region of the voxels.
        pooling: Mean over volumes, unweighted or weighted by their voxels in the region.
        n_bins: Number of bins.
        digits: Decimals to which each volume's value is rounded before averaging.
        channels: ``"seen"``: top label and classes up to the largest label of the volume;
            ``"foreground"``: each foreground class against the rest, no top label; ``"readers"``:
            top label against each reader's labels, averaged.
        dice: If True, the protocol includes a Dice, in which an absent structure scores 1.
    """

    name: str
    source: str
    region: str
    pooling: Literal["per_case", "weighted"]
    n_bins: int = 15
    digits: int | None = None
    channels: Literal["seen", "foreground", "readers"] = "seen"
    dice: bool = False


PROTOCOLS = (
    Protocol(
        "murugesan-med",
        "margin-based label smoothing for medical images (Murugesan et al., arXiv:2209.09641)",
        "label",
        "per_case",
        digits=4,
        dice=True,
    ),
    Protocol(
        "mbls-voc",
        "margin-based label smoothing on PASCAL VOC (Liu et al. 2022, arXiv:2111.15430)",
        "label",
        "weighted",
    ),
    Protocol(
        "cals-voc",
        "class-adaptive label smoothing on PASCAL VOC (Liu et al. 2023, arXiv:2211.15088)",
        "all",
        "per_case",
    ),
    Protocol(
        "curvas",  # the published code has 50 bins, which do not divide 60
        "CURVAS challenge of several raters (Riera-Marin et al. 2025, arXiv:2505.08685)",
        "all",
        "per_case",
        n_bins=60,
        channels="readers",
    ),
    Protocol(
        "acl",
        "average calibration losses (Barfoot et al. 2024, arXiv:2403.06759)",
        "all",
        "per_case",
        n_bins=20,
        channels="foreground",
    ),
)
"""The published protocols; ``sound`` is everything else in this package."""


def protocol_values(bins: CalibrationBins, protocol: Protocol) -> dict[str, np.ndarray]:
    """Return each case's values, ``(cases,)``; NaN where the published code would fail or skip.

    A volume with a single foreground voxel, on which that code fails, has its usual value.

    Args:
        bins: Histogram per case.
        protocol: The protocol.
    """
    if protocol.channels == "readers":
        settings: Any = {"region": protocol.region, "n_bins": protocol.n_bins}
        return {"ece": case_values(bins, "readers_ece", **settings)}
    tables = bins.table(protocol.region, protocol.n_bins)
    if protocol.channels == "foreground":
        classes = tables[:, :, 2 : 1 + bins.num_classes]
        return {
            "ece": expected_error(*classes).mean(-1),
            "ace": average_error(*classes).mean(-1),
            "mce": maximum_error(*classes).mean(-1),
        }
    count, hits, confidence = tables
    zero = bins.cells[:, bins.region(protocol.region), :, 0, 1]
    hits = np.concatenate([hits[..., :1] - zero[..., None], hits[..., 1:]], -1)
    errors = expected_error(count, hits, confidence)
    # Without voxels, the published top-label error is 0, and the class-wise one fails.
    top = np.where(count[:, 0].sum(-1) > 0, errors[:, 0], 0.0)
    labeled = bins.cells[:, bins.region(protocol.region), 1 : 1 + bins.num_classes, :, 1].sum(-1)
    ranks = np.arange(1, bins.num_classes + 1)
    seen = ((labeled > 0) * ranks).max(1)
    within = ranks <= seen[:, None]
    with np.errstate(invalid="ignore"):
        classwise = np.where(within, errors[:, 1 : 1 + bins.num_classes], 0).sum(1) / seen
    values = {"ece": top, "cece": np.where(seen > 0, classwise, np.nan)}
    if protocol.digits is not None:
        values = {name: np.round(v, protocol.digits) for name, v in values.items()}
    return values


def drawn_marginal_errors(
    bins: CalibrationBins, protocol: Protocol, weights: np.ndarray
) -> np.ndarray:
    """Return the ``acl`` code's "micro" error for each draw of cases ``(draws, cases)``.

    It differs from that of pooled voxels: a bin's mean confidences are averaged over cases without
    weights, but accuracies with their counts, so even calibrated probabilities have an error if
    cases differ in size.
    """
    count, hits, confidence = bins.table(protocol.region, protocol.n_bins)[
        :, :, 2 : 1 + bins.num_classes
    ]
    means = np.where(count > 0, confidence / np.where(count > 0, count, 1), np.nan)
    mean = np.nan_to_num(mean_of_draws(means, weights))
    total, right = (np.tensordot(weights, whole, 1) for whole in (count, hits))  # exact integers
    gap = np.abs(mean - right / np.maximum(total, 1))
    with np.errstate(invalid="ignore"):
        return ((total * gap).sum(-1) / total.sum(-1)).mean(-1)


def protocol_entries(
    bins: CalibrationBins,
    dice_counts: np.ndarray,
    protocol: Protocol,
    names: Mapping[str, str],
    weights: np.ndarray | None,
) -> dict[str, Any]:
    """Return ``{region: {pooling: {metric: entry}}}`` of one protocol.

    Args:
        bins: Histogram per case.
        dice_counts: int64 ``(cases, classes + unions, 3)``.
        protocol: The protocol.
        names: Display name of each channel.
        weights: Draws of patients ``(draws, cases)``, or None for no intervals.
    """
    voxels = bins.sums[:, bins.region(protocol.region), 0].astype(np.float64)
    cases = len(voxels)
    share = voxels if protocol.pooling == "weighted" else np.ones(cases)
    values = protocol_values(bins, protocol)
    if protocol.dice:
        scores = np.round(dice_scores(dice_counts, absent="one"), protocol.digits or 15)
        foreground = range(1, bins.num_classes)
        values |= {f"dice/{names[str(k)]}": scores[:, k] for k in foreground}
        values["dice/mean"] = scores[:, 1 : bins.num_classes].mean(1)
    entries = {}
    for name, each in values.items():
        known = int((~np.isnan(each) & (share > 0)).sum())
        entries[name] = _entry(weighted_mean(each, share), known, cases, weights)
    result: dict[str, Any] = {protocol.pooling: entries}
    if protocol.channels == "foreground":
        micro = partial(drawn_marginal_errors, bins, protocol)
        result["micro"] = {"ece": _entry(micro, cases, cases, weights)}
    return {protocol.region: result}


def weighted_mean(values: np.ndarray, share: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that maps draws ``(draws, cases)`` to means weighted by ``share``.

    NaN is skipped.
    """
    known = ~np.isnan(values) & (share > 0)
    values, share = np.where(known, values, 0.0), np.where(known, share, 0.0)

    def mean(draws: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            both = mean_of_draws(np.stack([values * share, share], -1), draws)
            return both[:, 0] / both[:, 1]

    return mean


def _entry(
    drawn: Callable[[np.ndarray], np.ndarray], known: int, cases: int, weights: np.ndarray | None
) -> dict[str, Any]:
    """Return the entry of a value, with its interval over draws of patients if there is one."""
    value = float(drawn(np.ones((1, cases)))[0])
    found = None if weights is None or np.isnan(value) else interval(drawn(weights))
    low, high = found or (None, None)
    return {"value": value, "low": low, "high": high, "floor": None, "n_cases": known}
