r"""Outer masks that miss little of a structure and inner masks that are in it, as a promise.

Of nested masks (:mod:`mbls.decisions.nested`) the smallest is taken whose missed share is bounded
for a new patient, by conformal risk control (Angelopoulos et al. 2022, arXiv:2208.02814). A
patient's loss is the mean over its cases that have the structure; patients without it do not
calibrate the outer mask, of whom it promises nothing.

- Without ``alpha``: the expected missed share is at most ``fnr``.
- With it: the missed share is above ``fnr`` for at most a share ``alpha`` of new patients.

The inner mask is the largest whose share outside the structure is bounded alike. This share may
fall as a mask grows, so its largest value among the smaller masks stands for it, which never does.
Patients without the structure calibrate it too: there any mask is outside as a whole.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from mbls.decisions.conformal import check_level, controlled_place, patients_needed
from mbls.decisions.json_files import load_json, save_json
from mbls.decisions.nested import Family, Nested, patient_means
from mbls.evaluation.run import TestRun
from mbls.runtime.errors import DecisionError

__all__ = ["Guarantee", "Promise", "guaranteed", "places_of"]

FORMAT = "mbls guarantee"
AGAIN = "Calibrate one with make guarantee RUN=... (mbls guarantee RUN)."


@dataclass(frozen=True)
class Promise:
    """What is promised.

    Attributes:
        fnr: Bound of the missed share of a structure, and of the share of an inner mask outside.
        alpha: Share of the patients for whom it may be exceeded; None bounds the expected share.

    Raises:
        DecisionError: They are not in (0, 1).
    """

    fnr: float
    alpha: float | None = None

    def __post_init__(self) -> None:
        try:
            check_level("FNR (--fnr)", self.fnr)
            if self.alpha is not None:
                check_level("ALPHA (--alpha)", self.alpha)
        except ValueError as error:
            raise DecisionError(str(error)) from error

    @property
    def level(self) -> float:
        """Bound of the expected loss."""
        return self.fnr if self.alpha is None else self.alpha

    def loss(self, shares: np.ndarray) -> np.ndarray:
        """Return the loss of shares: whether they are above the bound, or the shares themselves."""
        return shares if self.alpha is None else (shares > self.fnr).astype(np.float64)

    @property
    def text(self) -> str:
        """The promise in words."""
        share = f"{100 * self.fnr:g} % of it missed"
        if self.alpha is None:
            return f"on average at most {share}"
        return f"at most {share}, but for {100 * self.alpha:g} % of the patients"

    @property
    def name(self) -> str:
        """The promise in names of files."""
        parts = [f"fnr-{100 * self.fnr:g}"]
        parts += [] if self.alpha is None else [f"alpha-{100 * self.alpha:g}"]
        return "-".join(parts).replace(".", "_")


@dataclass(frozen=True)
class Guarantee:
    """An outer and an inner mask of each structure, and for whom they are promised.

    Attributes:
        family: Whether the values are thresholds of the probability, or margins in mm.
        promise: What is promised.
        class_keys: Short names of the classes, background first.
        structures: Short names of the foreground classes, then the unions.
        outer: Threshold (a voxel is inside above it) or margin; None: all voxels.
        inner: The same of the inner mask; None: no voxel.
        numbers: Patients with the structure, who calibrated its outer mask.
        cases: The cases that calibrated.
        patients: Their patients, sorted.
        calibrator: Method of the calibrator of the probabilities, if any.
        probabilities: Hash of what the probabilities follow from (weights, calibrator, mirroring,
            window, precision), if known.
        grid: Grid on which voxels were counted, if known.
    """

    family: Family
    promise: Promise
    class_keys: tuple[str, ...]
    structures: tuple[str, ...]
    outer: Mapping[str, float | None]
    inner: Mapping[str, float | None]
    numbers: Mapping[str, int]
    cases: tuple[str, ...]
    patients: tuple[str, ...]
    calibrator: str | None = None
    probabilities: str | None = None
    grid: str | None = None

    @property
    def name(self) -> str:
        """The guarantee in names of files."""
        return f"{self.promise.name}-{self.family}"

    def too_few(self) -> str | None:
        """Return which structures have too few patients for a promise, and how many are needed."""
        needed = patients_needed(self.promise.level)
        lacking = {name: n for name, n in self.numbers.items() if n < needed}
        if not lacking:
            return None
        counted = ", ".join(f"{name} {n}" for name, n in lacking.items())
        return (
            f"Too few patients calibrate ({counted}): a level of {self.promise.level:g} needs "
            f"{needed} with the structure. Only all voxels can be promised to contain it."
        )

    def save(self, path: Path) -> None:
        """Write a JSON file."""
        save_json(path, FORMAT, vars(self) | {"promise": vars(self.promise)})

    @classmethod
    def load(cls, path: Path) -> "Guarantee":
        """Read a file of :meth:`save`.

        Raises:
            DecisionError: It is not such a file.
        """
        try:
            content = load_json(path, FORMAT)
            for key in ("class_keys", "structures", "cases", "patients"):
                content[key] = tuple(content[key])
            found = cls(**content | {"promise": Promise(**content["promise"])})
            if found.family not in get_args(Family):
                raise ValueError(f"its family is {found.family!r}")
            for values in (found.outer, found.inner, found.numbers):
                if tuple(values) != found.structures:
                    raise ValueError("its values are not those of its structures")
            known = [v for m in (found.outer, found.inner) for v in m.values() if v is not None]
            if not all(isinstance(value, float | int) for value in known):
                raise ValueError("its values must be numbers or null")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DecisionError(f"{path} is no file of a guarantee: {error}. {AGAIN}") from error
        return found


def is_guarantee(path: Path) -> bool:
    """Return True if a file states the format of a guarantee."""
    try:
        return bool(json.loads(path.read_text())["format"] == FORMAT)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def places_of(nested: Nested, promise: Promise, chosen: np.ndarray) -> np.ndarray:
    """Return the masks that are promised, calibrated on some cases.

    Args:
        nested: The nested masks of all cases.
        promise: What is promised.
        chosen: Boolean ``(cases,)``: those that calibrate.

    Returns:
        Positions of the outer and the inner mask of each structure ``(structures, 2)``.
    """
    own = [p for p, one in zip(nested.patients, chosen, strict=True) if one]
    missed, outside = nested.missed()[chosen], nested.outside()[chosen]
    last = missed.shape[-1] - 1
    found = []
    for s in range(missed.shape[1]):
        outer = promise.loss(patient_means(missed[:, s], own)[0])
        wrong = promise.loss(patient_means(outside[:, s], own)[0])
        rising = np.maximum.accumulate(wrong, axis=1)
        inner = last - controlled_place(rising[:, ::-1], promise.level)
        found.append((controlled_place(outer, promise.level), inner))
    return np.array(found, dtype=int)


def guaranteed(run: TestRun, nested: Nested, promise: Promise) -> Guarantee:
    """Return what is promised to new patients, calibrated on all patients of a test.

    Args:
        run: Counts of the patients who calibrate, never those that a result is reported on.
        nested: Their nested masks.
        promise: What is promised.
    """
    places = places_of(nested, promise, np.ones(len(run.cases), dtype=bool))
    keys = tuple(run.meta.get("class_keys") or run.meta["class_names"])
    names = (*keys[1:], *run.bins.channels[1 + run.bins.num_classes :])
    missed = nested.missed()
    return Guarantee(
        nested.family, promise, keys, names,
        outer=_values(nested, names, places[:, 0]), inner=_values(nested, names, places[:, 1]),
        numbers={
            name: len(patient_means(missed[:, s], run.patients)[1]) for s, name in enumerate(names)
        },
        cases=tuple(run.cases), patients=tuple(sorted(set(run.patients))),
        calibrator=run.meta.get("calibrator"), probabilities=run.meta.get("probabilities"),
        grid=run.meta.get("grid"),
    )  # fmt: skip


def _values(nested: Nested, names: Sequence[str], places: np.ndarray) -> dict[str, float | None]:
    return {name: nested.value(k) for name, k in zip(names, places, strict=True)}
