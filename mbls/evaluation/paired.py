"""Two tests of the same cases, before and after calibration: differences with intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from mbls.evaluation.run import TestRun
from mbls.metrics.bootstrap import drawn_values, interval, mean_of_draws, patient_weights
from mbls.metrics.estimates import Pooling, estimate

__all__ = [
    "SAME",
    "Difference",
    "changed_share",
    "differences",
    "differences_table",
    "paired",
    "unlike",
]

CALIBRATION: tuple[tuple[str, str, str, Pooling], ...] = (  # heading, metric, region, pooling
    ("ECE, all voxels", "ece", "all", "pooled"),
    ("ECE, foreground", "ece", "label", "per_case"),
    ("class-wise ECE, foreground", "cece", "label", "per_case"),
    ("NLL, all voxels", "nll", "all", "pooled"),
    ("Brier score, all voxels", "brier", "all", "pooled"),
    ("true ECE, all voxels", "true_ece", "all", "pooled"),
)
SAME = (
    "predictor",
    "networks",
    "data_fingerprint",
    "grid",
    "mirror",
    "inference",
    "precision",
    "corruption",
)
"""Entries of the description of a test that must be equal before and after."""
OVERLAPS = (("Dice", "dice"), ("HD95 (mm)", "hd95"))


@dataclass(frozen=True)
class Difference:
    """A metric before and after, over the same cases.

    Attributes:
        name: The metric, for a table.
        before: Its value before.
        after: Its value after.
        interval: 95 % interval of ``after - before`` over patients; None with a single patient.
    """

    name: str
    before: float
    after: float
    interval: tuple[float, float] | None

    @property
    def change(self) -> float:
        """``after - before``."""
        return self.after - self.before


def unlike(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return in what two tests differ apart from the calibrator; nothing if they can be compared.

    Args:
        before: Description of a test, ``meta``.
        after: That of the other.
    """
    return [
        f"{key} {after.get(key)}, not {before.get(key)}"
        for key in SAME
        if before.get(key) != after.get(key)
    ]


def differences(before: TestRun, after: TestRun) -> list[Difference]:
    """Return the metrics of two tests of the same cases, and their paired differences.

    Both tests are resampled together, patient by patient; percentile intervals.

    Raises:
        ValueError: The cases differ, or the tests are of other weights, data or settings.
    """
    if found_unlike := unlike(before.meta, after.meta):
        raise ValueError(f"Both tests must be of one predictor and one data, got {found_unlike}.")
    if list(before.cases) != list(after.cases):
        raise ValueError(
            f"Both tests must have the same cases in the same order, got {len(before.cases)} and "
            f"{len(after.cases)}."
        )
    weights = patient_weights(after.patients) if len(set(after.patients)) > 1 else None
    found = []
    for name, metric, region, pooling in CALIBRATION:
        if metric.startswith("true_") and (before.bins.truth is None or after.bins.truth is None):
            continue

        def value(run: TestRun, m: str = metric, r: str = region, p: Pooling = pooling) -> float:
            return estimate(run.bins, m, region=r, pooling=p, n_bins=run.n_bins)[0]

        def drawn(
            run: TestRun, w: np.ndarray, m: str = metric, r: str = region, p: Pooling = pooling
        ) -> np.ndarray:
            return drawn_values(run.bins, [m], w, region=r, pooling=p, n_bins=run.n_bins)[m]

        found.append(_difference(name, before, after, weights, value, drawn))
    for name, key in OVERLAPS:
        if key in before.overlaps and key in after.overlaps:
            found.append(_overlap(name, key, before, after, weights))
    return found


def _difference(
    name: str,
    before: TestRun,
    after: TestRun,
    weights: np.ndarray | None,
    value: Callable[[TestRun], float],
    drawn: Callable[[TestRun, np.ndarray], np.ndarray],
) -> Difference:
    limits = None if weights is None else interval(drawn(after, weights) - drawn(before, weights))
    return Difference(name, value(before), value(after), limits)


def paired(
    name: str, before: np.ndarray, after: np.ndarray, weights: np.ndarray | None
) -> Difference:
    """Return the difference of the means of the cases where both values are defined.

    Args:
        name: The metric, for a table.
        before: A value of each case ``(cases,)``, NaN if undefined.
        after: The other.
        weights: Draws of patients ``(draws, cases)``; None for no interval.
    """
    known = ~(np.isnan(before) | np.isnan(after))
    pair = np.where(known[:, None], np.stack([before, after], axis=-1), np.nan)
    one, other = mean_of_draws(pair, np.ones((1, len(pair))))[0]
    limits = None
    if weights is not None and known.any():
        limits = interval(mean_of_draws(pair[:, 1:] - pair[:, :1], weights)[:, 0])
    return Difference(name, float(one), float(other), limits)


def _overlap(
    name: str, key: str, before: TestRun, after: TestRun, weights: np.ndarray | None
) -> Difference:
    """Return the difference of a mean over classes and cases, of the pairs where both exist."""
    classes = slice(1, before.bins.num_classes)
    one, other = (run.overlaps[key][:, classes] for run in (before, after))
    known = ~(np.isnan(one) | np.isnan(other))
    return paired(name, _case_means(one, known), _case_means(other, known), weights)


def _case_means(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        means: np.ndarray = np.where(known, values, 0).sum(axis=1) / known.sum(axis=1)
    return means


def changed_share(after: TestRun) -> float | None:
    """Return the share of labeled voxels whose class the calibrator changed, if it was counted."""
    changed = after.meta.get("changed_voxels")
    return None if changed is None else sum(changed) / float(after.bins.sums[:, 0, 0].sum())


def differences_table(found: Sequence[Difference], *, title: str, patients: int) -> Table:
    """Return a table with a row a metric, of a test of some number of patients."""
    table = Table(title=title)
    table.caption = f"Percentile intervals over {patients} patients, too short where these are few."
    for heading in ("metric", "before", "after", "change [95 % over patients]"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for each in found:
        limits = each.interval
        reach = "" if limits is None else f" [{limits[0]:+.4f}, {limits[1]:+.4f}]"
        table.add_row(
            each.name, f"{each.before:.4f}", f"{each.after:.4f}", f"{each.change:+.4f}{reach}"
        )
    return table
