"""What thresholds give on patients that they were not chosen on, beside the predicted classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rich.markup import escape
from rich.table import Table

from mbls.decisions.choice import Target, Thresholds, chosen_places
from mbls.decisions.thresholds import (
    OVERLAPS,
    STEPS,
    THRESHOLDS,
    Curve,
    argmax_counts,
    case_scores,
    structures_of,
    threshold_counts,
)
from mbls.evaluation.paired import Difference, paired
from mbls.evaluation.run import TestRun
from mbls.metrics.bootstrap import patient_weights
from mbls.runtime.errors import DecisionError

__all__ = ["Comparison", "compare", "compare_cross_fitted", "comparison_table", "curve_rows"]


@dataclass(frozen=True)
class Comparison:
    """A structure with its threshold, beside the predicted classes (argmax).

    Attributes:
        structure: Name of the class or union.
        threshold: The threshold; None if there is none, or one of each group of a cross-fit.
        changes: Dice, precision and recall: before of argmax, after of the threshold; means of the
            cases where both are defined. Empty without a threshold.
    """

    structure: str
    threshold: float | None
    changes: Sequence[Difference]

    def rows(self) -> list[dict[str, object]]:
        """Return a row for each measure, for a CSV file."""
        return [
            {
                "structure": self.structure, "threshold": self.threshold, "measure": one.name,
                "argmax": one.before, "at_threshold": one.after, "change": one.change,
                "change_low": None if one.interval is None else one.interval[0],
                "change_high": None if one.interval is None else one.interval[1],
            }
            for one in self.changes
        ]  # fmt: skip


def compare(test: TestRun, thresholds: Thresholds) -> list[Comparison]:
    """Return what thresholds give on a test, for each foreground class and union.

    Raises:
        DecisionError: They were chosen on a patient of the test, or are of other structures.
    """
    if seen := sorted(set(thresholds.patients) & set(test.patients)):
        named = ", ".join(seen[:3]) + (", ..." if len(seen) > 3 else "")
        raise DecisionError(
            f"The thresholds for {thresholds.target} were chosen on {len(seen)} of the test "
            f"patients ({named}): what they give there says nothing of new patients. Choose them "
            "on others."
        )
    values = [*thresholds.values.values(), *thresholds.unions.values()]
    names = list(structures_of(test).values())
    if len(values) != len(names):
        raise DecisionError(
            f"The thresholds are of {len(values)} structures, the test of {len(names)}: "
            f"{', '.join(names)}."
        )
    places = np.array([-1 if value is None else round(value * STEPS) for value in values])
    return _compare(test, np.broadcast_to(places, (len(test.cases), len(places))), values)


def compare_cross_fitted(
    test: TestRun, target: Target, groups: Mapping[str, int]
) -> list[Comparison]:
    """Return what thresholds give where each case has one that was chosen without its patient.

    Args:
        test: The counts of all patients.
        target: What thresholds are chosen for.
        groups: Group of each patient; a group's thresholds are chosen on the others.
    """
    counts = threshold_counts(test.bins)
    own = np.array([groups[patient] for patient in test.patients])
    places = np.empty(counts.shape[:2], dtype=int)
    for group in np.unique(own):
        places[own == group] = chosen_places(counts[own != group], target)
    return _compare(test, places, [None] * len(structures_of(test)))


def _compare(
    test: TestRun, places: np.ndarray, thresholds: Sequence[float | None]
) -> list[Comparison]:
    """Compare at the positions of thresholds ``(cases, structures)``, -1 where there is none."""
    counts, predicted = threshold_counts(test.bins), argmax_counts(test)
    cases = np.arange(len(counts))
    weights = patient_weights(test.patients) if len(set(test.patients)) > 1 else None
    found = []
    for s, name in enumerate(structures_of(test).values()):
        if (places[:, s] < 0).any():
            found.append(Comparison(name, None, ()))
            continue
        after = case_scores(counts[:, s][cases, places[:, s]])
        before = case_scores(predicted[:, s])
        changes = [paired(m, before[m], after[m], weights) for m in OVERLAPS]
        found.append(Comparison(name, thresholds[s], changes))
    return found


def comparison_table(found: Sequence[Comparison], *, title: str, caption: str) -> Table:
    """Return a table with a row for each structure and measure."""
    table = Table(title=escape(title), caption=escape(caption))
    for heading in ("structure", "threshold", "measure", "argmax", "threshold's", "change [95 %]"):
        left = heading in ("structure", "measure")
        table.add_column(heading, justify="left" if left else "right")
    for one in found:
        threshold = "" if one.threshold is None else f"{one.threshold:.3f}"
        if not one.changes:
            table.add_row(escape(one.structure), "none", "not reached")
        for number, each in enumerate(one.changes):
            head = ("", "") if number else (escape(one.structure), threshold)
            limits = each.interval
            reach = "" if limits is None else escape(f" [{limits[0]:+.4f}, {limits[1]:+.4f}]")
            table.add_row(
                *head, each.name, f"{each.before:.4f}", f"{each.after:.4f}",
                f"{each.change:+.4f}{reach}",
            )  # fmt: skip
    return table


def curve_rows(curves: Mapping[str, Mapping[str, Curve]], **fixed: str) -> pd.DataFrame:
    """Return curves as rows: structure, measure, threshold, value, low, high, cases.

    Args:
        curves: By structure and measure, of :func:`mbls.decisions.curves_of`.
        fixed: Further columns, the same in all rows.
    """
    parts = [
        pd.DataFrame(
            {
                **fixed, "structure": structure, "measure": measure, "threshold": THRESHOLDS,
                "value": curve.value, "low": curve.low, "high": curve.high,
                "n_cases": curve.n_cases,
            }
        )
        for structure, of in curves.items()
        for measure, curve in of.items()
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)
