r"""Volumes in ml of each structure and case, and what follows from them for a patient.

The expected volume is the sum of a structure's probabilities, :math:`\sum_v p_v`: the mean of the
volume over labels, if the probabilities are calibrated. Beside it is the volume of the predicted
class (argmax). Both are sums of a test's counts, without the probabilities themselves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mbls.decisions.thresholds import structures_of
from mbls.evaluation.run import TestRun
from mbls.runtime.errors import DecisionError

__all__ = ["FLOOR_ML", "Quantity", "quantities_of", "variance_of"]

FLOOR_ML = 0.1
"""What is added to the variance, or a structure with probabilities of 0 and 1 had no scale."""


@dataclass(frozen=True)
class Quantity:
    """A volume, or what follows from several, of each case or patient.

    Attributes:
        name: Name of the structure, or of the quantity.
        unit: Its unit.
        rows: Name of each case; of a derived quantity, of each patient.
        patients: Patient of each row.
        expected: Estimate from the probabilities ``(rows,)``; NaN if undefined.
        predicted: Estimate from the predicted classes.
        labeled: Value of the label; NaN if undefined.
        scale: Scale of the error of ``expected``.
    """

    name: str
    unit: str
    rows: Sequence[str]
    patients: Sequence[str]
    expected: np.ndarray
    predicted: np.ndarray
    labeled: np.ndarray
    scale: np.ndarray

    def residuals(self) -> np.ndarray:
        """Return the errors in units of the scale, NaN where the label has no value."""
        error = (self.labeled - self.expected) / self.scale
        return np.where(np.isnan(self.expected) & ~np.isnan(self.labeled), np.inf, error)

    def scores(self) -> dict[str, float]:
        """Return the largest absolute residual of each patient who has one."""
        found: dict[str, float] = {}
        for patient, one in zip(self.patients, np.abs(self.residuals()), strict=True):
            if not np.isnan(one):
                found[patient] = max(found.get(patient, 0.0), float(one))
        return found

    def of(self, chosen: np.ndarray) -> "Quantity":
        """Return the rows that are True in ``chosen`` ``(rows,)``."""
        names, patients = (np.array(each)[chosen].tolist() for each in (self.rows, self.patients))
        arrays = (self.expected, self.predicted, self.labeled, self.scale)
        return Quantity(self.name, self.unit, names, patients, *(a[chosen] for a in arrays))


def quantities_of(run: TestRun) -> list[Quantity]:
    """Return the volume of each foreground class and union, and the derived quantities.

    The test's ``meta`` states what is derived, if anything: ``quantities``, a list of ``name``,
    ``unit``, ``sum`` and optionally ``over``, which weight volumes by structure and phase, and
    ``phases``, that of each case. The ejection fraction is ``{"sum": {"lv ED": 100, "lv ES":
    -100}, "over": {"lv ED": 1}}``. A patient without one of the phases has no value.

    Raises:
        DecisionError: The test does not know the size of its voxels, or a quantity names an unknown
            structure or phase.
    """
    if run.voxel_ml is None:
        raise DecisionError(
            "The test is of a version that did not keep the size of voxels: test again (make "
            "evaluate, make audit)."
        )
    expected, variance = _sums(run)
    size = run.voxel_ml[:, None]
    volumes = expected * size, run.dice[:, 1:, 1] * size, run.dice[:, 1:, 2] * size
    scale = variance * size + FLOOR_ML
    names = list(structures_of(run).values())
    found = [
        Quantity(name, "ml", list(run.cases), list(run.patients),
                 *(each[:, s] for each in (*volumes, scale)))
        for s, name in enumerate(names)
    ]  # fmt: skip
    keys = run.meta.get("class_keys") or run.meta["class_names"]
    short = [*keys[1:], *run.bins.channels[1 + run.bins.num_classes :]]
    derived = run.meta.get("quantities") or []
    return found + [_derived(run, one, short, volumes) for one in derived]


def variance_of(voxels: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    r"""Return :math:`\sum_v p_v (1 - p_v)` from the bins of a histogram, ``(...)``.

    The probabilities of a bin are taken as equal, which adds at most 1/60 of their sum.

    Args:
        voxels: Number of voxels in each bin ``(..., bins)``.
        confidence: Sum of their probabilities ``(..., bins)``.
    """
    found: np.ndarray = (confidence - confidence**2 / np.maximum(voxels, 1)).sum(axis=-1)
    return found


def _sums(run: TestRun) -> tuple[np.ndarray, np.ndarray]:
    """Return expected voxels and their Bernoulli variance ``(cases, structures)``."""
    voxels, _, confidence = run.bins.table("all", 60)[:, :, 2:]
    return confidence.sum(axis=-1), variance_of(voxels, confidence)


def _derived(
    run: TestRun, stated: Mapping[str, Any], short: Sequence[str], volumes: Sequence[np.ndarray]
) -> Quantity:
    """Return a derived quantity of each patient."""
    phases, patients = list(run.meta.get("phases") or []), list(dict.fromkeys(run.patients))
    place = {(p, phase): n for n, (p, phase) in enumerate(zip(run.patients, phases, strict=True))}

    def weighted(weights: Mapping[str, float], values: np.ndarray) -> np.ndarray:
        total = np.zeros(len(patients))
        for term, weight in weights.items():
            structure, _, phase = term.rpartition(" ")
            if structure not in short or phase not in phases:
                raise DecisionError(
                    f"The quantity {stated['name']} needs {term!r}, but the test has the "
                    f"structures {', '.join(short)} and phases {', '.join(sorted(set(phases)))}."
                )
            rows = [place.get((patient, phase)) for patient in patients]
            own = values[:, short.index(structure)]
            total += weight * np.array([np.nan if n is None else own[n] for n in rows])
        return total

    def value(values: np.ndarray) -> np.ndarray:
        above = weighted(stated["sum"], values)
        below = weighted(stated["over"], values) if stated.get("over") else np.ones(len(above))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(below == 0, np.nan, above / below)

    expected, predicted, labeled = (value(each) for each in volumes)
    ones = np.ones(len(patients))
    return Quantity(
        stated["name"], stated["unit"], patients, patients, expected, predicted, labeled, ones
    )
