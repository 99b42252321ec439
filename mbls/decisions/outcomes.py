"""What the masks of a guarantee give on patients that did not calibrate them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mbls.decisions.conformal import share_interval
from mbls.decisions.guarantee import Guarantee, Promise, places_of
from mbls.decisions.nested import Family, Nested, patient_means
from mbls.evaluation.run import TestRun
from mbls.runtime.errors import DecisionError

__all__ = [
    "Outcome",
    "cross_fitted_places",
    "fewest_patients",
    "guaranteed_places",
    "outcomes",
    "tradeoff",
]


@dataclass(frozen=True)
class Outcome:
    """The outer and the inner mask of one structure.

    Attributes:
        structure: Name of the class or union.
        family: Whether they are made by a threshold or a margin.
        outer: Threshold or margin of the outer mask; None: all voxels, or several of a cross-fit.
        inner: The same of the inner mask; None: no voxel, or several.
        patients: Patients with the structure.
        missed: Mean over them of the share outside the outer mask.
        above: Share of them whose share is above ``fnr``, with its exact 95 % interval.
        to_true: Volume of the outer masks divided by that of the labels.
        to_argmax: The same divided by that of the predicted class.
        all_patients: All patients.
        outside: Mean over them of the inner mask's share outside the structure.
        outside_above: Share of them whose share is above ``fnr``, with its exact 95 % interval.
        inner_to_true: Volume of the inner masks divided by that of the labels.
        single: False if masks differ between the groups of a cross-fit.
    """

    structure: str
    family: Family
    outer: float | None
    inner: float | None
    patients: int
    missed: float
    above: tuple[float, float, float]
    to_true: float
    to_argmax: float
    all_patients: int
    outside: float
    outside_above: tuple[float, float, float]
    inner_to_true: float
    single: bool

    def row(self) -> dict[str, Any]:
        """Return the values for a CSV file."""
        pairs = {"above": self.above, "outside_above": self.outside_above}
        plain = {key: value for key, value in vars(self).items() if key not in pairs}
        return plain | {
            f"{key}{end}": value
            for key, three in pairs.items()
            for end, value in zip(("", "_low", "_high"), three, strict=True)
        }


def guaranteed_places(test: TestRun, nested: Nested, found: Guarantee) -> np.ndarray:
    """Return the masks of a guarantee for each case ``(cases, structures, 2)``: outer and inner.

    Raises:
        DecisionError: It was calibrated on a patient of the test, or is of other structures.
    """
    if seen := sorted(set(found.patients) & set(test.patients)):
        raise DecisionError(
            f"The guarantee was calibrated on {len(seen)} of the test patients "
            f"({', '.join(seen[:3])}{', ...' if len(seen) > 3 else ''}): what it gives there says "
            "nothing of new patients. Calibrate it on others."
        )
    if len(found.structures) != len(nested.structures):
        raise DecisionError(
            f"The guarantee is of {len(found.structures)} structures, the test of "
            f"{len(nested.structures)}: {', '.join(nested.structures)}."
        )
    last = len(nested.values) - 1

    def place(value: float | None, otherwise: int) -> int:
        return otherwise if value is None else int(np.nanargmin(np.abs(nested.values - value)))

    places = [
        (place(found.outer[name], last), place(found.inner[name], 0)) for name in found.structures
    ]
    return np.broadcast_to(np.array(places), (len(test.cases), len(places), 2))


def cross_fitted_places(nested: Nested, promise: Promise, groups: Mapping[str, int]) -> np.ndarray:
    """Return the masks of each case ``(cases, structures, 2)``, calibrated on the other groups.

    Args:
        nested: The nested masks of all cases.
        promise: What is promised.
        groups: Group of each patient.
    """
    own = np.array([groups[patient] for patient in nested.patients])
    places = np.empty((len(own), len(nested.structures), 2), dtype=int)
    for group in np.unique(own):
        places[own == group] = places_of(nested, promise, own != group)
    return places


def fewest_patients(nested: Nested, groups: Mapping[str, int]) -> list[int]:
    """Return for each structure on how few patients with it a group of a cross-fit is calibrated.

    Args:
        nested: The nested masks of all cases.
        groups: Group of each patient.
    """
    own = np.array([groups[patient] for patient in nested.patients])
    names = np.array(list(nested.patients))
    labeled = nested.counts[:, :, -1, 0] > 0
    return [
        min(len(set(names[has & (own != group)])) for group in np.unique(own)) for has in labeled.T
    ]


def outcomes(test: TestRun, nested: Nested, promise: Promise, places: np.ndarray) -> list[Outcome]:
    """Return what the masks of each structure give.

    Args:
        test: The counts of a test, with the size of voxels.
        nested: Its nested masks.
        promise: What is promised.
        places: Positions of the masks ``(cases, structures, 2)``: outer and inner.
    """
    assert test.voxel_ml is not None
    missed, outside = nested.missed(), nested.outside()
    inside = nested.counts[..., 1] * test.voxel_ml[:, None, None]
    cases = np.arange(len(test.cases))
    found = []
    for s, name in enumerate(nested.structures):
        outer, inner = places[:, s].T
        true, predicted = (test.dice[:, 1 + s, k] @ test.voxel_ml for k in (2, 1))
        lost = patient_means(missed[cases, s, outer], nested.patients)[0]
        wrong = patient_means(outside[cases, s, inner], nested.patients)[0]
        found.append(
            Outcome(
                name, nested.family, _one(nested, outer), _one(nested, inner),
                patients=len(lost), missed=_mean(lost), above=_above(lost, promise.fnr),
                to_true=_ratio(inside[cases, s, outer].sum(), true),
                to_argmax=_ratio(inside[cases, s, outer].sum(), predicted),
                all_patients=len(wrong), outside=_mean(wrong),
                outside_above=_above(wrong, promise.fnr),
                inner_to_true=_ratio(inside[cases, s, inner].sum(), true),
                single=len(np.unique(places[:, s], axis=0)) == 1,
            )
        )  # fmt: skip
    return found


def tradeoff(test: TestRun, nested: Nested, fnr: float) -> dict[str, np.ndarray]:
    """Return for each structure how volume buys a small missed share, along its nested masks.

    Returns:
        ``(masks, 3)`` each: volume divided by the true one, mean missed share, and share of the
        patients above ``fnr``; without the mask of all voxels.
    """
    assert test.voxel_ml is not None
    found = {}
    for s, name in enumerate(nested.structures):
        volume = test.voxel_ml @ nested.counts[:, s, :, 1]
        true = test.voxel_ml @ test.dice[:, 1 + s, 2]
        lost = patient_means(nested.missed()[:, s], nested.patients)[0]
        if true and len(lost):
            above = (lost > fnr).mean(axis=0)
            found[name] = np.stack([volume / true, lost.mean(axis=0), above], axis=-1)[1:-1]
    return found


def _one(nested: Nested, places: np.ndarray) -> float | None:
    """Return the value of the masks of all cases, if it is one."""
    return nested.value(int(places[0])) if len(set(places.tolist())) == 1 else None


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan


def _above(values: np.ndarray, bound: float) -> tuple[float, float, float]:
    if not len(values):
        return np.nan, np.nan, np.nan
    hits = int((values > bound).sum())
    return hits / len(values), *share_interval(hits, len(values))


def _ratio(one: float, other: float) -> float:
    return float(one / other) if other else np.nan
