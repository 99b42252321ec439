"""How Dice, calibration and decisions of a test change when its images are corrupted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from mbls.decisions.choice import Thresholds
from mbls.decisions.quantities import quantities_of
from mbls.decisions.thresholds import STEPS, case_scores, threshold_counts
from mbls.decisions.volumes import calibrate
from mbls.evaluation.run import TestRun
from mbls.metrics.bootstrap import interval, mean_of_draws, patient_weights
from mbls.metrics.confidence_sums import case_mean
from mbls.runtime.errors import DecisionError

__all__ = [
    "MEASURES",
    "Promised",
    "Shifted",
    "at_thresholds",
    "coverage",
    "shift_measures",
    "shift_table",
]

Value = tuple[float, float, float]
"""A value with the limits of its 95 % interval over patients; NaN where unknown."""
MEASURES = {
    "dice": "Dice",
    "ece": "ECE, all voxels",
    "ece_label": "ECE, foreground",
    "at_thresholds": "at thresholds",
    "coverage": "coverage of volumes",
}
"""The measures by name, with a heading; the last two are known if something was promised."""


@dataclass(frozen=True)
class Promised:
    """What was chosen on validation images as they are.

    Attributes:
        thresholds: Thresholds for a target; None for none.
        validation: The counts that calibrate intervals of volumes; None for none.
        alpha: Share of patients whose interval may miss.
    """

    thresholds: Thresholds | None = None
    validation: TestRun | None = None
    alpha: float = 0.1


@dataclass(frozen=True)
class Shifted:
    """The measures of a test of corrupted images.

    Attributes:
        line: The run, and its calibrator if any, for a legend.
        corruption: Name of the corruption; empty for the images as they are.
        level: Its level, 0 for the images as they are.
        strength: Its strength in the corruption's unit.
        values: Each measure by its name in :data:`MEASURES`.
    """

    line: str
    corruption: str
    level: int
    strength: float
    values: Mapping[str, Value]

    def row(self) -> dict[str, Any]:
        """Return a row of a CSV file."""
        found: dict[str, Any] = {
            "run": self.line, "corruption": self.corruption or "none", "level": self.level,
            "strength": self.strength,
        }  # fmt: skip
        for name, (value, low, high) in self.values.items():
            found |= {name: value, f"{name}_low": low, f"{name}_high": high}
        return found


def shift_measures(
    metrics: Mapping[str, Any], test: TestRun, promised: Promised | None = None
) -> dict[str, Value]:
    """Return the measures of a test.

    Args:
        metrics: Content of its ``metrics.json``.
        test: Its counts.
        promised: What was chosen on other patients, on images as they are.
    """
    sound = metrics["sound"]
    entries = {
        "dice": metrics["dice"]["mean"],
        "ece": sound["all"]["pooled"]["ece"],
        "ece_label": sound["label"]["per_case"]["ece"],
    }
    found = {name: _value(entry) for name, entry in entries.items()}
    if promised is not None and promised.thresholds is not None:
        found["at_thresholds"] = at_thresholds(test, promised.thresholds)
    if promised is not None and promised.validation is not None:
        found["coverage"] = coverage(test, promised.validation, promised.alpha)
    return found


def at_thresholds(test: TestRun, thresholds: Thresholds) -> Value:
    """Return what the target's measure is at thresholds: mean of the classes, then of the cases.

    Classes without a threshold are left out.

    Args:
        test: The counts of a test.
        thresholds: Thresholds of the same classes, chosen on other patients.
    """
    measure = thresholds.target.partition(":")[0]
    counts = threshold_counts(test.bins)[:, : test.bins.num_classes - 1]
    places = [-1 if value is None else round(value * STEPS) for value in thresholds.values.values()]
    scores = np.full((len(counts), 1 + len(places)), np.nan)  # of the background none
    for structure, place in enumerate(places):
        if place >= 0:
            found = case_scores(counts[:, structure, place])
            scores[:, 1 + structure] = dict(found.items())[measure]
    return _mean(case_mean(scores, scores.shape[1]), test.patients)


def coverage(test: TestRun, validation: TestRun, alpha: float) -> Value:
    """Return the share of volumes in intervals that other patients calibrated.

    It is the mean over the foreground classes and unions of a patient, then over the patients; a
    volume of a patient is covered if that of each of its cases is.

    Args:
        test: The counts of a test.
        validation: Those of other patients, of images as they are.
        alpha: Share of patients whose interval may miss.

    Raises:
        DecisionError: There are too few other patients for an interval.
    """
    others = {one.name: one for one in quantities_of(validation)}
    hits: dict[str, list[bool]] = {}
    for one in quantities_of(test):
        if one.unit == "ml":
            found = calibrate(one, others[one.name], alpha)
            if reason := found.too_few():
                raise DecisionError(f"{reason} Choose a larger ALPHA (--alpha).")
            for patient, covered in found.covered().items():
                hits.setdefault(patient, []).append(covered)
    return _mean(np.array([np.mean(each) for each in hits.values()]), list(hits))


def _mean(values: np.ndarray, patients: Sequence[str]) -> Value:
    """Return the mean of rows without NaN, with its interval over patients."""
    each = values[:, None]
    mean = float(mean_of_draws(each, np.ones((1, len(each))))[0, 0])
    limits = None
    if len(set(patients)) > 1 and not np.isnan(mean):
        limits = interval(mean_of_draws(each, patient_weights(patients))[:, 0])
    return (mean, *(limits or (np.nan, np.nan)))


def shift_table(
    rows: Sequence[Shifted], *, target: str | None, alpha: float | None = None, phantom: bool
) -> Table:
    """Return a table with a row for each test, the images as they are first.

    Args:
        rows: The tests.
        target: The target of the thresholds, if any.
        alpha: Share of patients whose volumes may be missed, if they have intervals.
        phantom: True for synthetic data.
    """
    table = Table(title="Corrupted images", caption=(
        "Dice: mean of the cases and structures. ECE: all voxels, pooled; ECE label: labeled "
        "foreground, mean of the cases. Intervals in the CSV file."
        + (" PHANTOM: synthetic images." if phantom else "")))  # fmt: skip
    headings = {"dice": "Dice", "ece": "ECE", "ece_label": "ECE label"}
    if target is not None:
        headings["at_thresholds"] = f"at {target}"
    if alpha is not None:
        headings["coverage"] = f"{1 - alpha:g} covers"
    for heading in ("images", "strength", "run", *headings.values()):
        left = heading in ("images", "run")
        table.add_column(heading, justify="left" if left else "right", no_wrap=left)
    order = list(dict.fromkeys(row.corruption for row in rows))
    before = ""
    for row in sorted(rows, key=lambda one: (order.index(one.corruption), one.level)):
        if row.corruption != before:
            table.add_section()
        before = row.corruption
        numbers = [f"{row.values[name][0]:.4f}" for name in headings]
        strength = f"{row.strength:g}" if row.level else ""
        named = f"{row.corruption}:{row.level}" if row.level else "none"
        table.add_row(named, strength, escape(row.line), *numbers)
    return table


def _value(entry: Mapping[str, Any]) -> Value:
    numbers = (entry[key] for key in ("value", "low", "high"))
    value, low, high = (np.nan if number is None else float(number) for number in numbers)
    return value, low, high
