"""Patients of the phantom, with many labels of each from its known posterior, counted once.

A label of a case is one of many that an annotator might have drawn. What decisions need of it, the
counts of nested masks and volumes, is kept for each, so that a world (a label for each patient) is
a choice of rows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from datamodules.phantom import (
    ACDC,
    Annotation,
    Patient,
    PhantomSettings,
    draw_labels,
    posterior,
)
from mbls.decisions.nested import Family, Nested
from mbls.decisions.quantities import variance_of
from mbls.decisions.thresholds import THRESHOLDS
from mbls.metrics.margins import MARGINS, margin_places

__all__ = [
    "ANNOTATORS",
    "FAMILIES",
    "STRUCTURES",
    "Bank",
    "Case",
    "draw_banks",
    "phantom_cases",
    "tempered",
]

STRUCTURES = ("right ventricle", "myocardium", "left ventricle")
FAMILIES: tuple[Family, ...] = ("threshold", "margin")
MASKS: Mapping[Family, int] = {"threshold": len(THRESHOLDS) + 2, "margin": len(MARGINS) + 2}
LARGER_MM = 1.5

Annotator = Callable[[Annotation], Annotation]
Quality = Callable[["Case"], np.ndarray]


def _larger(case: Annotation) -> Annotation:
    """Draw each structure further out."""
    layers = [replace(one, distance=one.distance - np.float32(LARGER_MM)) for one in case.layers]
    return replace(case, layers=layers)


def _rougher(case: Annotation) -> Annotation:
    """Double the standard deviation of each boundary."""
    return replace(case, layers=[replace(one, sigma_mm=2 * one.sigma_mm) for one in case.layers])


ANNOTATORS: Mapping[str, Annotator] = {
    "the same": lambda case: case,
    f"{LARGER_MM:g} mm larger": _larger,
    "twice as rough": _rougher,
}


@dataclass(frozen=True)
class Case:
    """A frame of a patient.

    Attributes:
        name: Name of the case.
        patient: Name of the patient.
        annotation: What draws its labels.
        image: Its volume ``(X, Y, Z)`` in stored units.
        affine: From indices to RAS in mm.
    """

    name: str
    patient: str
    annotation: Annotation
    image: np.ndarray
    affine: np.ndarray


@dataclass(frozen=True)
class Bank:
    """What is known of P patients with B labels each; of a single one without the axis P.

    Attributes:
        missed: Share of a structure outside each nested mask by family, mean over the patient's
            cases ``(P, B, structures, masks)``.
        outside: Share of each nested mask outside the structure, the same shape.
        inside: Volume of each nested mask in ml by family ``(P, cases, structures, masks)``.
        expected: Sum of the probabilities in ml ``(P, cases, structures)``.
        variance: Bernoulli variance of the voxels in ml, the same shape.
        labeled: Volume in ml ``(P, B, cases, structures)``.
    """

    missed: Mapping[Family, np.ndarray]
    outside: Mapping[Family, np.ndarray]
    inside: Mapping[Family, np.ndarray]
    expected: np.ndarray
    variance: np.ndarray
    labeled: np.ndarray


def phantom_cases(patients: int, *, seed: int, settings: PhantomSettings) -> Iterator[list[Case]]:
    """Yield both frames of each patient of a phantom in ACDC's layout."""
    settled = ACDC.settled(settings)
    for number in range(1, patients + 1):
        patient = Patient(number, "test", f"patient{number:03d}")
        scans, _ = ACDC.draw(patient, settled, seed)
        yield [
            Case(s.name, patient.name, s.annotation, next(iter(s.images.values())), s.affine)
            for s in scans
        ]


def draw_banks(
    patients: Sequence[Sequence[Case]],
    qualities: Mapping[str, Quality],
    *,
    labels: int,
    seed: int,
) -> dict[tuple[str, str], Bank]:
    """Return a bank for each quality of the probabilities and each annotator.

    Args:
        patients: The cases of each patient, all of one size.
        qualities: What gives the probabilities ``(C, X, Y, Z)`` of a case.
        labels: How many labels of a patient each annotator draws, B.
        seed: Of the labels.
    """
    rows: dict[tuple[str, str], list[Bank]] = {(q, a): [] for q in qualities for a in ANNOTATORS}
    for number, cases in enumerate(patients):
        probs = {name: [quality(one) for one in cases] for name, quality in qualities.items()}
        for place, (annotator, changed) in enumerate(ANNOTATORS.items()):
            rng = np.random.default_rng([seed, number, place])
            models = [changed(one.annotation) for one in cases]
            drawn = np.array([[draw_labels(m, rng) for m in models] for _ in range(labels)])
            for name, own in probs.items():
                rows[name, annotator].append(_patient(cases, drawn, own))
    return {key: _stacked(own) for key, own in rows.items()}


def _stacked(rows: Sequence[Bank]) -> Bank:
    """Return the bank of several patients."""
    families = [
        {f: np.stack([getattr(row, part)[f] for row in rows]) for f in FAMILIES}
        for part in ("missed", "outside", "inside")
    ]
    arrays = [np.stack([getattr(row, part) for row in rows])
              for part in ("expected", "variance", "labeled")]  # fmt: skip
    return Bank(families[0], families[1], families[2], arrays[0], arrays[1], arrays[2])


def _patient(cases: Sequence[Case], labels: np.ndarray, probs: Sequence[np.ndarray]) -> Bank:
    """Count labels ``(B, cases, X, Y, Z)`` of a patient."""
    size = [float(np.prod(one.annotation.spacing)) / 1000 for one in cases]
    missed, outside, inside = {}, {}, {}
    for family in FAMILIES:
        counts = np.stack(
            [
                _nested(_places(p, one.annotation.spacing, family), labels[:, c], MASKS[family])
                for c, (one, p) in enumerate(zip(cases, probs, strict=True))
            ]
        )  # (cases, structures, B, masks, 2)
        flat = np.moveaxis(counts, 2, 1).reshape(-1, counts.shape[1], *counts.shape[3:])
        nested = Nested(family, STRUCTURES, np.empty(0), flat, ())
        shape = (len(cases), labels.shape[0], *flat.shape[1:3])
        missed[family] = nested.missed().reshape(shape).mean(axis=0)
        outside[family] = nested.outside().reshape(shape).mean(axis=0)
        inside[family] = counts[:, :, 0, :, 1] * np.reshape(size, (-1, 1, 1))
        labeled = counts[..., -1, 0]
    each = [_sums(p) for p in probs]
    expected, variance = (
        np.stack([one[k] * ml for one, ml in zip(each, size, strict=True)]) for k in range(2)
    )
    labeled = np.moveaxis(labeled, -1, 0) * np.reshape(size, (1, -1, 1))
    return Bank(missed, outside, inside, expected, variance, labeled)


def _sums(probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return expected voxels and their Bernoulli variance of each structure ``(structures,)``."""
    places = [np.searchsorted(THRESHOLDS.astype(np.float32), one.ravel()) for one in probs[1:]]
    voxels = np.stack([np.bincount(own, minlength=61) for own in places])
    sums = np.stack(
        [np.bincount(own, one.ravel(), 61) for own, one in zip(places, probs[1:], strict=True)]
    )
    return sums.sum(axis=1), variance_of(voxels, sums)


def _places(probs: np.ndarray, spacing: Sequence[float], family: Family) -> list[np.ndarray]:
    """Return for each structure the first nested mask that contains each voxel."""
    if family == "margin":
        predicted = probs.argmax(axis=0)
        return [1 + margin_places(predicted == k, spacing) for k in range(1, len(probs))]
    edges = THRESHOLDS.astype(np.float32)
    return [1 + len(edges) - np.searchsorted(edges, one) for one in probs[1:]]


def _nested(places: Sequence[np.ndarray], labels: np.ndarray, size: int) -> np.ndarray:
    """Return labeled and all voxels of each nested mask, ``(structures, B, masks, 2)``."""
    found = np.empty((len(places), len(labels), size, 2), dtype=np.int64)
    for s, own in enumerate(places):
        found[s, :, :, 1] = np.bincount(own.ravel(), minlength=size).cumsum()
        for b, label in enumerate(labels):
            found[s, b, :, 0] = np.bincount(own[label == s + 1], minlength=size).cumsum()
    return found


def tempered(case: Case, temperature: float) -> np.ndarray:
    """Return the posterior of a case at a temperature: below 1 sharper, above 1 blunter."""
    probs = posterior(case.annotation) ** np.float32(1 / temperature)
    return probs / probs.sum(axis=0)
