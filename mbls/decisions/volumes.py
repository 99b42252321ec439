r"""An interval for the volume of each new patient, and how often it holds.

The interval is split conformal (Vovk et al. 2005; Angelopoulos and Bates 2021, arXiv:2107.07511):
expected volume plus or minus :math:`q` times a scale, where :math:`q` is a quantile of
:math:`|y - \hat y| / scale` of other patients. The scale is the Bernoulli variance of the voxels,
:math:`\sum_v p_v (1 - p_v)`, plus :data:`~mbls.decisions.quantities.FLOOR_ML`: about a structure's
surface times the width of its uncertain rim, as is the error of a boundary that is displaced as a
whole. A patient counts once, with the largest of its cases, so its intervals hold for all of them
at once. What is derived from volumes, such as an ejection fraction, has a scale of 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mbls.decisions.conformal import (
    check_level,
    conformal_quantile,
    crps,
    patients_needed,
    share_interval,
)
from mbls.decisions.quantities import Quantity
from mbls.metrics.bootstrap import interval, mean_of_draws, patient_weights
from mbls.runtime.errors import DecisionError

__all__ = ["Calibrated", "calibrate", "calibrate_groups"]


@dataclass(frozen=True)
class Calibrated:
    """The intervals of a quantity on patients that did not calibrate them.

    Attributes:
        quantity: The quantity on these patients.
        alpha: Share of patients whose interval may miss.
        number: Patients that calibrated; of a cross-fit the fewest of a group.
        low: Lower limit of each row, not below 0 for a volume.
        high: Upper limit of each row; infinite with too few patients, or without an estimate.
        crps: Continuous ranked probability score of each row, of the residuals that calibrated;
            NaN where the label has no value.
        quantile: The quantile of the residuals; None for those of a cross-fit.
    """

    quantity: Quantity
    alpha: float
    number: int
    low: np.ndarray
    high: np.ndarray
    crps: np.ndarray
    quantile: float | None

    def too_few(self) -> str | None:
        """Return a line if there are too few patients for an interval."""
        needed = patients_needed(self.alpha)
        if self.number >= needed:
            return None
        return (
            f"{self.quantity.name}: {self.number} patients calibrate, and a level of "
            f"{1 - self.alpha:g} needs {needed}: the interval is infinite."
        )

    @property
    def without_estimate(self) -> int:
        """Rows that have no estimate, such as patients without a phase: their interval is all."""
        return int(np.isnan(self.quantity.expected).sum())

    def width(self) -> float:
        """Return the mean width over the rows with an estimate; NaN if there are none."""
        known = ~np.isnan(self.quantity.expected)
        return float((self.high - self.low)[known].mean()) if known.any() else np.nan

    def covered(self) -> dict[str, bool]:
        """Return for each patient with a label whether all its intervals contain the label."""
        truth = self.quantity.labeled
        found: dict[str, bool] = {}
        inside = (self.low <= truth) & (truth <= self.high)
        for patient, one, value in zip(self.quantity.patients, inside, truth, strict=True):
            if not np.isnan(value):
                found[patient] = found.get(patient, True) and bool(one)
        return found

    def row(self) -> dict[str, Any]:
        """Return errors, coverage, width and CRPS, with intervals over patients, for a CSV file."""
        quantity, covered = self.quantity, self.covered()
        hits, number = sum(covered.values()), len(covered)
        reach = share_interval(hits, number) if number else (np.nan, np.nan)
        errors = {"expected": quantity.expected, "argmax": quantity.predicted}
        return {
            "quantity": quantity.name, "unit": quantity.unit, "patients": number,
            "mean": float(np.nanmean(quantity.labeled)) if number else np.nan,
            **{
                f"{which}_{name}{end}": value
                for which, estimate in errors.items()
                for name, error in _errors(estimate, quantity.labeled).items()
                for end, value in _mean(error, quantity.patients).items()
            },
            "coverage": hits / number if number else np.nan,
            "coverage_low": reach[0], "coverage_high": reach[1],
            "width": self.width(), "without_estimate": self.without_estimate,
            "crps": float(np.nanmean(self.crps)) if (~np.isnan(self.crps)).any() else np.nan,
            "alpha": self.alpha, "calibrated_on": self.number, "quantile": self.quantile,
        }  # fmt: skip

    def cases(self) -> dict[str, Any]:
        """Return a column of each value, with a row a case or patient, for a CSV file."""
        quantity = self.quantity
        return {
            "quantity": quantity.name, "unit": quantity.unit, "case": list(quantity.rows),
            "patient": list(quantity.patients), "expected": quantity.expected,
            "argmax": quantity.predicted, "labeled": quantity.labeled,
            "low": self.low, "high": self.high, "crps": self.crps,
        }  # fmt: skip


def calibrate(test: Quantity, validation: Quantity, alpha: float) -> Calibrated:
    """Return the intervals of a quantity, calibrated on other patients.

    Args:
        test: The quantity on the patients that intervals are for; the limits do not depend on
            their labels.
        validation: The same quantity on the patients that calibrate.
        alpha: Share of new patients whose interval may miss, in (0, 1).

    Raises:
        DecisionError: They have a patient in common, or ``alpha`` is out of range.
    """
    try:
        check_level("ALPHA (--alpha)", alpha)
    except ValueError as error:
        raise DecisionError(str(error)) from error
    if both := sorted(set(test.patients) & set(validation.patients)):
        raise DecisionError(
            f"{len(both)} patients both calibrate intervals and have them ({', '.join(both[:3])}"
            f"{', ...' if len(both) > 3 else ''}): their coverage says nothing of new patients."
        )
    scores = validation.scores()
    quantile = conformal_quantile(np.array(list(scores.values())), alpha)
    reach = quantile * test.scale
    low, high = test.expected - reach, test.expected + reach
    if test.unit == "ml":
        low = np.maximum(low, 0)
    low, high = (np.where(np.isnan(test.expected), end, limit)
                 for end, limit in ((-np.inf, low), (np.inf, high)))  # fmt: skip
    return Calibrated(test, alpha, len(scores), low, high, _crps(test, validation), quantile)


def calibrate_groups(quantity: Quantity, groups: Mapping[str, int], alpha: float) -> Calibrated:
    """Return intervals where each group of patients is calibrated on the others.

    Args:
        quantity: The quantity on all patients.
        groups: Group of each patient.
        alpha: As of :func:`calibrate`.
    """
    own = np.array([groups[patient] for patient in quantity.patients])
    low, high, score = (np.full(len(own), np.nan) for _ in range(3))
    numbers = []
    for group in np.unique(own):
        part = own == group
        found = calibrate(quantity.of(part), quantity.of(~part), alpha)
        low[part], high[part], score[part] = found.low, found.high, found.crps
        numbers.append(found.number)
    return Calibrated(quantity, alpha, min(numbers), low, high, score, None)


def _crps(test: Quantity, validation: Quantity) -> np.ndarray:
    """Return the CRPS of each row for the residuals of other patients, each of equal weight."""
    residuals = validation.residuals()
    kept = np.isfinite(residuals)
    names = np.array(list(validation.patients))[kept]
    score = np.full(len(test.rows), np.nan)
    if not len(names):
        return score
    known, place, times = np.unique(names, return_inverse=True, return_counts=True)
    weights = 1 / (len(known) * times[place])
    for row, (middle, scale, truth) in enumerate(
        zip(test.expected, test.scale, test.labeled, strict=True)
    ):
        if not np.isnan(middle + truth):
            score[row] = crps(middle + scale * residuals[kept], weights, truth)
    return score


def _errors(estimate: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    return {"bias": estimate - truth, "absolute": np.abs(estimate - truth)}


def _mean(values: np.ndarray, patients: Sequence[str]) -> dict[str, float]:
    """Return the mean over rows with its 95 % interval over patients."""
    mean = mean_of_draws(values[:, None], np.ones((1, len(values))))[0, 0]
    limits = None
    if len(set(patients)) > 1 and not np.isnan(mean):
        limits = interval(mean_of_draws(values[:, None], patient_weights(patients))[:, 0])
    low, high = (np.nan, np.nan) if limits is None else limits
    return {"": float(mean), "_low": low, "_high": high}
