"""The files a test run leaves: ``metrics.json``, ``cases.csv``, ``bins.npz`` and figures."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mbls.evaluation.summary import N_BINS, channel_names, load_bins, save_bins, summarize
from mbls.metrics.bins import CalibrationBins
from mbls.metrics.dice import DiceScore, dice_scores
from mbls.metrics.estimates import case_values
from mbls.metrics.fine import FineHistogram
from mbls.metrics.histogram import CalibrationHistogram
from mbls.metrics.surfaces import HausdorffDistance95, NormalizedSurfaceDice

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a spreadsheet takes for the begin of a formula, or moves to a field of its own."""


@dataclass(frozen=True)
class Results:
    """What a test run left in its folder.

    Attributes:
        metrics: Content of ``metrics.json``; a missing number is None.
        cases: Content of ``cases.csv``, one row a case.
        bins: Histogram of each case.
        dice_counts: int64 ``(cases, classes + unions, 3)``.
    """

    metrics: dict[str, Any]
    cases: pd.DataFrame
    bins: CalibrationBins
    dice_counts: np.ndarray


def write_results(
    folder: Path,
    histogram: CalibrationHistogram,
    dice: DiceScore,
    *,
    cases: Sequence[str],
    patients: Sequence[str],
    meta: Mapping[str, Any],
    hd95: HausdorffDistance95 | None = None,
    nsd: NormalizedSurfaceDice | None = None,
    fine: FineHistogram | None = None,
) -> dict[str, Any]:
    """Write a test run's files and return the content of ``metrics.json``.

    Equal sums give files equal to the byte. Call it on one process, after the metrics' states were
    summed over all (inside ``sync_context`` where torchmetrics has not done it).

    Args:
        folder: Where to write; made if needed.
        histogram: A histogram with ``num_cases``.
        dice: Dice of the same cases.
        cases: Name of each case, in the order of its index.
        patients: Patient of each case.
        meta: At least ``dataset`` (str), ``origin`` (``"real"`` or ``"phantom"``) and
            ``class_names``; JSON values only.
        hd95: Hausdorff distances of the same cases, if measured.
        nsd: Surface Dice of the same cases, if measured.
        fine: Fine histogram of the same cases, if counted; adds ``adaptive_ece``, ``tace`` and
            ``smece``, pooled.

    Raises:
        ValueError: If numbers of cases differ or ``meta`` lacks a name.
    """
    bins, counts = histogram.bins(), dice.counts.cpu().numpy()
    measured = {"hd95": hd95, "nsd": nsd}
    surfaces = {name: m.scores() for name, m in measured.items() if m is not None}
    about: dict[str, Any] = {
        "cases": cases,
        "patients": patients,
        "meta": meta,
        "surfaces": surfaces,
    }
    cells = None if fine is None else fine.bins()
    metrics = summarize(bins, counts, fine=cells, **about)
    folder.mkdir(parents=True, exist_ok=True)
    save_bins(folder / "bins.npz", bins, counts, fine=cells, **about)
    (folder / "metrics.json").write_text(to_json(metrics))
    (folder / "cases.csv").write_text(case_rows(bins, counts, **about))
    write_figures(folder, bins, metrics, patients=patients)
    return metrics


def write_figures(
    folder: Path, bins: CalibrationBins, metrics: Mapping[str, Any], *, patients: Sequence[str]
) -> None:
    """Write each figure of a test run as PNG and PDF.

    ``reliability`` (all voxels pooled), ``reliability_by_case`` (their spread), ``confidence``
    (each region) and, where the labels' distribution is known, ``true_error``.
    """
    from mbls.plots import (
        confidence_figure,
        reliability_figure,
        save_figure,
        spread_figure,
        truth_figure,
    )

    meta = metrics["meta"]
    figures = {
        "reliability": reliability_figure(bins, meta=meta, patients=patients),
        "reliability_by_case": spread_figure(bins, meta=meta),
        "confidence": confidence_figure(bins, meta=meta),
    }
    if bins.truth is not None:
        figures["true_error"] = truth_figure(metrics)
    for name, figure in figures.items():
        save_figure(figure, folder / name)


def load_results(folder: Path) -> Results:
    """Read the files of :func:`write_results`.

    Raises:
        FileNotFoundError: If one is missing; the message names what a results folder holds.
    """
    folder = Path(folder)
    for name in ("metrics.json", "cases.csv", "bins.npz"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} must hold metrics.json, cases.csv and bins.npz, as a test run writes "
                f"them (runs/.../test/<tag>), but {name} is missing."
            )
    bins, counts, _ = load_bins(folder / "bins.npz")
    metrics = json.loads((folder / "metrics.json").read_text())
    names = dict.fromkeys(("case", "patient"), csv_name)  # so that "007" and "NA" stay names, too
    cases = pd.read_csv(
        folder / "cases.csv", converters=names, keep_default_na=False, na_values=[""]
    )
    return Results(metrics, cases, bins, counts)


def csv_field(name: str) -> str:
    """Return a name as a field of a CSV file that no spreadsheet takes for a formula.

    What begins like one gets an apostrophe before it; :func:`csv_name` takes it off again.

    Example:
        >>> csv_field("=1+1"), csv_name("'=1+1"), csv_field("patient001")
        ("'=1+1", '=1+1', 'patient001')
    """
    return f"'{name}" if name.lstrip("'").startswith(FORMULA) else name


def csv_name(field: str) -> str:
    """Return the name that :func:`csv_field` wrote."""
    return field[1:] if field.startswith("'") and csv_field(field[1:]) == field else field


def to_json(metrics: Mapping[str, Any]) -> str:
    """Return valid JSON: NaN and infinities become null, floats their shortest exact digits."""
    return json.dumps(_finite(metrics), indent=1, allow_nan=False) + "\n"


def case_rows(
    bins: CalibrationBins,
    dice_counts: np.ndarray,
    *,
    cases: Sequence[str],
    patients: Sequence[str],
    meta: Mapping[str, Any],
    surfaces: Mapping[str, np.ndarray],
) -> str:
    """Return the CSV text of ``cases.csv``; an empty field is a value that does not exist."""
    names = channel_names(bins, meta)
    columns: dict[str, Sequence[Any]] = {
        "case": [csv_field(case) for case in cases],
        "patient": [csv_field(patient) for patient in patients],
    }
    columns["voxels"] = bins.sums[:, 0, 0].tolist()
    scores = dice_scores(dice_counts)
    for position, channel in enumerate(bins.channels[1:]):
        columns[f"dice/{names[channel]}"] = scores[:, position].tolist()
    for metric, table in surfaces.items():
        for position in range(1, table.shape[1]):
            name = names[bins.channels[1 + position]]
            columns[f"{metric}/{name}"] = table[:, position].tolist()
    metrics = ["ece", "cece", "signed", "nll", "brier"]
    if bins.truth is not None:
        metrics += ["true_ece", "true_cece"]
    for region in bins.regions:
        for metric in metrics:
            values = case_values(bins, metric, region=region, n_bins=N_BINS)
            columns[f"{metric}/{region}"] = values.tolist()
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in row])
    return text.getvalue()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
