"""Write and read the files of a test: ``metrics.json``, ``cases.csv``, ``bins.npz``, figures."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mbls.evaluation.run import TestRun, csv_name
from mbls.metrics.bins import CalibrationBins


@dataclass(frozen=True)
class Results:
    """Results of a test, read from its folder.

    Attributes:
        metrics: Content of ``metrics.json``; a missing number is None.
        cases: Content of ``cases.csv``, one row per case.
        bins: Histogram of each case.
        dice_counts: int64 ``(cases, classes + unions, 3)``.
    """

    metrics: dict[str, Any]
    cases: pd.DataFrame
    bins: CalibrationBins
    dice_counts: np.ndarray


def write_results(folder: Path, run: TestRun, *, figures: bool = True) -> dict[str, Any]:
    """Write the files of a test and return the content of ``metrics.json``.

    Equal counts give bitwise identical files.

    Args:
        folder: Output folder; created if needed.
        run: The counts of the test.
        figures: If False, no figure is drawn.
    """
    metrics = run.summary()
    folder.mkdir(parents=True, exist_ok=True)
    run.save(folder / "bins.npz")
    (folder / "metrics.json").write_text(to_json(metrics))
    (folder / "cases.csv").write_text(run.csv())
    if figures:
        write_figures(folder, run, metrics)
    return metrics


def write_figures(folder: Path, run: TestRun, metrics: Mapping[str, Any]) -> None:
    """Write the figures of a test as PNG and PDF.

    ``reliability`` (all voxels pooled), ``reliability_by_case``, ``confidence`` (each region) and,
    if the posterior is known, ``true_error``.
    """
    from mbls.plots import (
        confidence_figure,
        reliability_figure,
        save_figure,
        spread_figure,
        truth_figure,
    )

    about: dict[str, Any] = {"meta": metrics["meta"], "n_bins": run.n_bins}
    figures = {
        "reliability": reliability_figure(run.bins, **about, patients=run.patients),
        "reliability_by_case": spread_figure(run.bins, **about),
        "confidence": confidence_figure(run.bins, **about),
    }
    if run.bins.truth is not None:
        figures["true_error"] = truth_figure(metrics)
    for name, figure in figures.items():
        save_figure(figure, folder / name)


def load_results(folder: Path) -> Results:
    """Read the files of :func:`write_results`.

    Raises:
        FileNotFoundError: A file is missing.
    """
    folder = Path(folder)
    for name in ("metrics.json", "cases.csv", "bins.npz"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} must contain metrics.json, cases.csv and bins.npz of a test "
                f"(runs/.../test/<tag>), but {name} is missing."
            )
    run = TestRun.load(folder / "bins.npz")
    metrics = json.loads((folder / "metrics.json").read_text())
    names = dict.fromkeys(("case", "patient"), csv_name)  # keeps names like "007" and "NA"
    cases = pd.read_csv(
        folder / "cases.csv", converters=names, keep_default_na=False, na_values=[""]
    )
    return Results(metrics, cases, run.bins, run.dice)


def from_bins(path: Path) -> dict[str, Any]:
    """Return the content of ``metrics.json``, bitwise identical, from ``bins.npz`` alone."""
    return TestRun.load(path).summary()


def to_json(metrics: Mapping[str, Any]) -> str:
    """Return valid JSON: NaN and infinity are null, floats have their shortest exact digits."""
    return json.dumps(_finite(metrics), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
