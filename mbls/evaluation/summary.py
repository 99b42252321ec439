"""Every number of a test run from its integer sums: the content of ``metrics.json``."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbls.evaluation.protocols import PROTOCOLS, protocol_entries
from mbls.metrics.bins import CalibrationBins
from mbls.metrics.bootstrap import (
    corrected,
    drawn_values,
    interval,
    mean_of_draws,
    patient_weights,
)
from mbls.metrics.dice import dice_scores
from mbls.metrics.estimates import POOLINGS, Pooling, estimate
from mbls.metrics.fine_bins import TACE_THRESHOLD, FineBins, fine_values

SOUND_METRICS = (
    *("ece", "cece", "ece_l2", "cece_l2", "ace", "mce", "signed", "over", "under", "brier", "nll"),
    *("ece_debiased_square", "cece_debiased_square"),
)
TRUE_METRICS = ("true_ece", "true_cece", "true_signed")
FLOORED = ("ece", "cece")
"""Metrics whose value for a calibrated model is stated beside them."""
CORRECTED = ("ece", "cece")
"""Metrics with ``<metric>_corrected`` beside them where voxels are pooled, from the bootstrap."""
N_BINS = 15
NOT_PROTOCOLS = ("meta", "dice", "hd95", "nsd")
"""Keys of ``metrics.json`` beside the protocols."""


def entry(value: float, n_cases: int) -> dict[str, Any]:
    """Return one number of ``metrics.json``; interval and floor are filled in where they exist."""
    return {"value": value, "low": None, "high": None, "floor": None, "n_cases": n_cases}


def summarize(
    bins: CalibrationBins,
    dice_counts: np.ndarray,
    *,
    cases: Sequence[str],
    patients: Sequence[str],
    meta: Mapping[str, Any],
    surfaces: Mapping[str, np.ndarray] | None = None,
    fine: FineBins | None = None,
) -> dict[str, Any]:
    """Return ``{protocol: {region: {pooling: {metric: entry}}}}`` plus ``meta`` and ``dice``.

    Args:
        bins: Histogram that keeps cases apart.
        dice_counts: int64 ``(cases, classes + unions, 3)``.
        cases: Name of each case.
        patients: Patient of each case, the unit of resampling.
        meta: ``dataset``, ``origin``, ``class_names`` and whatever else describes the run.
        surfaces: By name (``"hd95"``, ``"nsd"``) float64 ``(cases, classes + unions)``.
        fine: Fine histogram of the same cases, which adds :data:`FINE_METRICS` where pooled.

    Raises:
        ValueError: If the numbers of cases differ, or ``meta`` lacks a name it needs.
    """
    _check(bins, dice_counts, cases, patients, meta)
    names = channel_names(bins, meta)
    known = TRUE_METRICS if bins.truth is not None else ()
    metrics = {m: m for m in (*SOUND_METRICS, *known)}
    metrics |= {f"ece/{names[c]}": f"ece/{c}" for c in bins.channels[1:]}
    number = len(set(patients))
    weights = patient_weights(patients) if number > 1 else None
    sound: dict[str, Any] = {
        region: {
            pooling: sound_entries(bins, metrics, weights, region, pooling, patients=number)
            for pooling in POOLINGS
        }
        for region in bins.regions
    }
    if fine is not None:
        for region in fine.regions:
            sound[region]["pooled"] |= fine_entries(fine, bins, region)
    structures = [names[c] for c in bins.channels[1:]]
    return {
        "meta": {
            **meta,
            "n_bins": N_BINS,
            "tace_threshold": TACE_THRESHOLD,
            "n_cases": len(cases),
            "n_patients": number,
            "floored_voxels": int(bins.sums[:, 0, 3].sum()),
        },
        "sound": sound,
        **{
            p.name: protocol_entries(bins, dice_counts, p, names, weights)
            for p in PROTOCOLS
            if p.region in bins.regions
        },
        "dice": dice_summary(dice_counts, structures, bins.num_classes, weights),
        **{
            name: {
                structure: cell
                for structure, cell in structure_means(
                    values, structures, bins.num_classes, weights
                ).items()
                if structure != structures[0]
            }
            for name, values in (surfaces or {}).items()
        },
    }


def sound_entries(
    bins: CalibrationBins,
    metrics: Mapping[str, str],
    weights: np.ndarray | None,
    region: str,
    pooling: Pooling,
    *,
    patients: int,
) -> dict[str, Any]:
    """Return the entries of one region and pooling, with intervals and noise floors.

    Where voxels are pooled, ``<metric>_corrected`` is the value less its bias over patients.

    Args:
        bins: Histogram that keeps cases apart.
        metrics: Names of the estimators by the names shown.
        weights: Draws of patients, or None where there are too few.
        region: Which voxels.
        pooling: Over voxels or over cases.
        patients: How many there are.
    """

    def value(metric: str) -> tuple[float, int]:
        return estimate(bins, metric, region=region, pooling=pooling, n_bins=N_BINS)

    entries = {shown: entry(*value(metric)) for shown, metric in metrics.items()}
    for shown, metric in metrics.items():
        base, slash, channel = metric.partition("/")
        if base in FLOORED:
            entries[shown]["floor"] = value(f"{base}_floor{slash}{channel}")[0]
    beside = {m: f"{m}_corrected" for m in CORRECTED if pooling == "pooled"}
    entries |= {name: entry(float("nan"), entries[m]["n_cases"]) for m, name in beside.items()}
    if weights is not None:
        settings: dict[str, Any] = {"region": region, "pooling": pooling, "n_bins": N_BINS}
        drawn = drawn_values(bins, list(metrics.values()), weights, **settings)
        for shown, metric in metrics.items():
            _set_interval(entries[shown], drawn[metric])
        for metric, name in beside.items():
            if found := corrected(entries[metric]["value"], drawn[metric], patients):
                entries[name] |= dict(zip(("value", "low", "high"), found, strict=True))
    return entries


def fine_entries(fine: FineBins, bins: CalibrationBins, region: str) -> dict[str, Any]:
    """Return the entries of the fine grid's metrics; it is pooled, so no patient can be drawn."""
    filled = int((bins.sums[:, bins.region(region), 0] > 0).sum())
    values = fine_values(fine, bins.num_classes, region, n_bins=N_BINS)
    return {
        name: entry(value, filled) | {"floor": floor} for name, (value, floor) in values.items()
    }


def _set_interval(cell: dict[str, Any], drawn: np.ndarray) -> None:
    if (limits := interval(drawn)) is not None and not np.isnan(cell["value"]):
        cell["low"], cell["high"] = limits


def dice_summary(
    counts: np.ndarray, names: Sequence[str], num_classes: int, weights: np.ndarray | None = None
) -> dict[str, Any]:
    """Return the mean Dice of each structure, and their mean over foreground classes.

    A structure whose label is absent from a case is left out there; ``n_absent`` says how often,
    and ``n_false`` how often it was predicted all the same.
    """
    scores = dice_scores(counts)
    result = structure_means(scores, names, num_classes, weights)
    for column, name in enumerate(names):
        absent = counts[:, column, 2] == 0
        result[name]["n_absent"] = int(absent.sum())
        result[name]["n_false"] = int((absent & (counts[:, column, 1] > 0)).sum())
    return result


def structure_means(
    scores: np.ndarray, names: Sequence[str], num_classes: int, weights: np.ndarray | None
) -> dict[str, Any]:
    """Return the mean over cases of each column of ``(cases, structures)``, and their mean.

    Columns are classes, background first, then unions; ``"mean"`` averages the foreground classes'
    means. NaN is left out.
    """
    known = ~np.isnan(scores)
    one = mean_of_draws(scores, np.ones((1, len(scores))))
    drawn = None if weights is None else mean_of_draws(scores, weights)
    result: dict[str, Any] = {}
    for column, name in enumerate(names):
        result[name] = entry(float(one[0, column]), int(known[:, column].sum()))
        if drawn is not None:
            _set_interval(result[name], drawn[:, column])
    cases = int(known[:, 1:num_classes].any(1).sum())
    result["mean"] = entry(float(_row_means(one[:, 1:num_classes])[0]), cases)
    if drawn is not None:
        _set_interval(result["mean"], _row_means(drawn[:, 1:num_classes]))
    return result


def _row_means(values: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(1) / known.sum(1)


def channel_names(bins: CalibrationBins, meta: Mapping[str, Any]) -> dict[str, str]:
    """Return the shown name of each channel: a class's own, a union's, ``top``."""
    return {
        c: str(meta["class_names"][int(c)]) if 1 <= i <= bins.num_classes else c
        for i, c in enumerate(bins.channels)
    }


def save_bins(
    path: Path,
    bins: CalibrationBins,
    dice_counts: np.ndarray,
    *,
    cases: Sequence[str],
    patients: Sequence[str],
    meta: Mapping[str, Any],
    surfaces: Mapping[str, np.ndarray] | None = None,
    fine: FineBins | None = None,
) -> None:
    """Write all that :func:`summarize` needs to one ``.npz``."""
    extra = {
        "dice": dice_counts,
        "dice_axes": np.array(("case", "channel[1:]", "count")),
        "dice_count": np.array(("both", "predicted", "labelled")),
        "case": np.array(list(cases), dtype=np.str_),
        "patient": np.array(list(patients), dtype=np.str_),
        "meta": np.array(json.dumps(dict(meta))),
        **{f"surface_{name}": values for name, values in (surfaces or {}).items()},
        **({} if fine is None else fine.arrays()),
    }
    bins.save(path, extra)


def load_bins(path: Path) -> tuple[CalibrationBins, np.ndarray, dict[str, Any]]:
    """Read ``bins.npz``: the histogram, the Dice counts, and what else :func:`summarize` takes."""
    bins, extra = CalibrationBins.load(path)
    about = {
        "cases": extra["case"].tolist(),
        "patients": extra["patient"].tolist(),
        "meta": json.loads(str(extra["meta"])),
        "surfaces": {
            name.removeprefix("surface_"): values
            for name, values in extra.items()
            if name.startswith("surface_")
        },
        "fine": FineBins.from_arrays(extra),
    }
    return bins, extra["dice"], about


def from_bins(path: Path) -> dict[str, Any]:
    """Return from ``bins.npz`` alone what :func:`summarize` gave the run, equal to the bit."""
    bins, counts, about = load_bins(path)
    return summarize(bins, counts, **about)


def _check(
    bins: CalibrationBins,
    dice_counts: np.ndarray,
    cases: Sequence[str],
    patients: Sequence[str],
    meta: Mapping[str, Any],
) -> None:
    lengths = {bins.cells.shape[0], dice_counts.shape[0], len(cases), len(patients)}
    if bins.pooled or len(lengths) != 1:
        raise ValueError(
            f"The histogram (pooled: {bins.pooled}), Dice, cases and patients must have one row a "
            f"case, got {bins.cells.shape[0]}, {dice_counts.shape[0]}, {len(cases)} and "
            f"{len(patients)}."
        )
    if absent := [k for k in ("dataset", "origin", "class_names") if k not in meta]:
        raise ValueError(f"meta must say dataset, origin and class_names, got none of {absent}.")
    if meta["origin"] not in ("real", "phantom"):
        raise ValueError(f"meta['origin'] must be 'real' or 'phantom', got {meta['origin']!r}.")
    if len(meta["class_names"]) != bins.num_classes:
        raise ValueError(
            f"meta['class_names'] must name {bins.num_classes} classes, got {meta['class_names']}."
        )
