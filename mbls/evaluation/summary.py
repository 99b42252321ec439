"""Compute the content of ``metrics.json`` from the counts of a test."""

from typing import TYPE_CHECKING, Any

import numpy as np

from mbls.evaluation.protocols import PROTOCOLS, protocol_entries
from mbls.metrics.bootstrap import (
    corrected,
    drawn_values,
    interval,
    mean_of_draws,
    patient_weights,
)
from mbls.metrics.catalog import further_keys, shown_in
from mbls.metrics.estimates import POOLINGS, Pooling, estimate
from mbls.metrics.fine_bins import TACE_THRESHOLD, FineBins, fine_values

if TYPE_CHECKING:
    from mbls.evaluation.run import TestRun

NOT_PROTOCOLS = ("meta", "dice", "hd95", "nsd")
"""Keys of ``metrics.json`` that are not protocols."""


def entry(value: float, n_cases: int, floor: float | None = None) -> dict[str, Any]:
    """Return one entry of ``metrics.json``, without an interval."""
    return {"value": value, "low": None, "high": None, "floor": floor, "n_cases": n_cases}


def summarize(run: "TestRun") -> dict[str, Any]:
    """Return ``{protocol: {region: {pooling: {metric: entry}}}}`` plus ``meta`` and overlaps.

    The fine histogram, if counted, adds its metrics to those of pooled voxels.
    """
    bins, patients = run.bins, len(set(run.patients))
    weights = patient_weights(run.patients) if patients > 1 else None
    sound: dict[str, Any] = {
        region: {pooling: sound_entries(run, weights, region, pooling) for pooling in POOLINGS}
        for region in bins.regions
    }
    if run.fine is not None:
        for region in run.fine.regions:
            sound[region]["pooled"] |= fine_entries(run, run.fine, region)
    overlaps = {
        name: structure_means(values, run, weights) for name, values in run.overlaps.items()
    }
    background, *structures = (run.names[c] for c in bins.channels[1:])
    for column, name in enumerate([background, *structures]):
        absent = run.dice[:, column, 2] == 0
        overlaps["dice"][name]["n_absent"] = int(absent.sum())
        overlaps["dice"][name]["n_false"] = int((absent & (run.dice[:, column, 1] > 0)).sum())
    for name in run.surfaces:
        del overlaps[name][background]
    return {
        "meta": {
            **run.meta,
            "n_bins": run.n_bins,
            "tace_threshold": TACE_THRESHOLD,
            "n_cases": len(run.cases),
            "n_patients": patients,
            "floored_voxels": int(bins.sums[:, 0, 3].sum()),
        },
        "sound": sound,
        **{
            p.name: protocol_entries(bins, run.dice, p, run.names, weights)
            for p in PROTOCOLS
            if p.region in bins.regions and (p.channels != "readers" or bins.readers is not None)
        },
        **overlaps,
    }


def sound_entries(
    run: "TestRun", weights: np.ndarray | None, region: str, pooling: Pooling
) -> dict[str, Any]:
    """Return the entries of one region and pooling, with intervals and noise floors.

    With pooled voxels, ``<metric>_corrected`` is the value minus its bootstrap bias over patients.

    Args:
        run: The counts of the test.
        weights: Draws of patients, or None for too few patients.
        region: Region of the voxels.
        pooling: Over voxels or over cases.
    """
    bins = run.bins
    settings: dict[str, Any] = {"region": region, "pooling": pooling, "n_bins": run.n_bins}
    chosen = shown_in("json", "top", "classes", "score")
    by_channel = {f"ece/{run.names[c]}": f"ece/{c}" for c in bins.channels[1:]}
    known = {"posterior": bins.truth is not None, "readers": bins.readers is not None}
    metrics = {key: key for key in [*(m.key for m in chosen), *further_keys(chosen, **known)]}
    metrics |= by_channel
    entries = {name: entry(*estimate(bins, m, **settings)) for name, m in metrics.items()}
    floors = {m.key: f"{m.key}_floor" for m in chosen if m.floor}
    floors |= {name: m.replace("ece", "ece_floor", 1) for name, m in by_channel.items()}
    for name, metric in floors.items():
        entries[name]["floor"] = estimate(bins, metric, **settings)[0]
    to_correct = [m.key for m in chosen if m.corrected and pooling == "pooled"]
    for key in to_correct:
        entries[f"{key}_corrected"] = entry(float("nan"), entries[key]["n_cases"])
    if weights is not None:
        drawn = drawn_values(bins, list(metrics.values()), weights, **settings)
        for name, metric in metrics.items():
            _set_interval(entries[name], drawn[metric])
        for key in to_correct:
            patients = len(set(run.patients))
            if found := corrected(entries[key]["value"], drawn[key], patients):
                low_to_high = zip(("value", "low", "high"), found, strict=True)
                entries[f"{key}_corrected"] |= dict(low_to_high)
    return entries


def fine_entries(run: "TestRun", fine: FineBins, region: str) -> dict[str, Any]:
    """Return the entries of the fine histogram; it is pooled, so there are no intervals."""
    filled = int((run.bins.sums[:, run.bins.region(region), 0] > 0).sum())
    values = fine_values(fine, run.bins.num_classes, region, n_bins=run.n_bins)
    shown = [m.key for m in shown_in("json", "fine")]
    return {key: entry(values[key][0], filled, values[key][1]) for key in shown}


def structure_means(
    scores: np.ndarray, run: "TestRun", weights: np.ndarray | None
) -> dict[str, Any]:
    """Return the mean over cases of each column of ``(cases, classes + unions)``, and their mean.

    ``"mean"`` averages the foreground classes' means. NaN (an absent structure) is skipped.
    """
    known, foreground = ~np.isnan(scores), slice(1, run.bins.num_classes)
    one = mean_of_draws(scores, np.ones((1, len(scores))))
    drawn = None if weights is None else mean_of_draws(scores, weights)
    result: dict[str, Any] = {}
    for column, channel in enumerate(run.bins.channels[1:]):
        cell = entry(float(one[0, column]), int(known[:, column].sum()))
        result[run.names[channel]] = cell
        if drawn is not None:
            _set_interval(cell, drawn[:, column])
    cases = int(known[:, foreground].any(1).sum())
    result["mean"] = entry(float(row_means(one[:, foreground])[0]), cases)
    if drawn is not None:
        _set_interval(result["mean"], row_means(drawn[:, foreground]))
    return result


def row_means(values: np.ndarray) -> np.ndarray:
    """Return the mean of each row of ``(rows, columns)`` without NaN; NaN if all are."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(1) / known.sum(1)


def _set_interval(cell: dict[str, Any], drawn: np.ndarray) -> None:
    if (limits := interval(drawn)) is not None and not np.isnan(cell["value"]):
        cell["low"], cell["high"] = limits
