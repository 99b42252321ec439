"""Choose a threshold for each structure on some patients, keep it as JSON, segment with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from mbls.decisions.json_files import load_json, save_json
from mbls.decisions.label_maps import label_map
from mbls.decisions.thresholds import (
    OVERLAPS,
    THRESHOLDS,
    Overlap,
    case_scores,
    threshold_counts,
)
from mbls.evaluation.run import TestRun
from mbls.metrics.bootstrap import mean_of_draws
from mbls.runtime.errors import DecisionError

__all__ = ["Target", "Thresholds", "choose", "chosen_places"]

FORMAT = "mbls thresholds"
AGAIN = "Choose thresholds with make thresholds RUN=... (mbls thresholds RUN)."


@dataclass(frozen=True)
class Target:
    """What a threshold is chosen for.

    Attributes:
        measure: ``"dice"``, ``"precision"`` or ``"recall"``, the mean over cases.
        least: The value that precision or recall must reach; None to maximize Dice.

    Example:
        >>> Target.parse("recall:0.95").name, Target.parse("dice").text
        ('recall-95', 'dice')
    """

    measure: Overlap
    least: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Target":
        """Read ``dice``, ``recall:0.95`` or ``precision:0.9``.

        Raises:
            DecisionError: It is none of these.
        """
        measure, colon, value = text.partition(":")
        number = float(value) if value.replace(".", "", 1).isdecimal() else -1.0
        if (
            measure not in OVERLAPS
            or (measure == "dice") == bool(colon)
            or (colon and not 0 < number <= 1)
        ):
            raise DecisionError(
                "TARGET (--target) must be dice, recall:R or precision:P with a number above 0 and "
                f"up to 1, such as recall:0.95, got {text!r}."
            )
        return cls(measure, number if colon else None)

    @property
    def text(self) -> str:
        """The target as the command line has it."""
        return self.measure if self.least is None else f"{self.measure}:{self.least:g}"

    @property
    def name(self) -> str:
        """The target in names of files and tests."""
        if self.least is None:
            return self.measure
        return f"{self.measure}-{100 * self.least:g}".replace(".", "_")


@dataclass(frozen=True)
class Thresholds:
    """A threshold for each structure.

    Attributes:
        target: What they were chosen for, see :class:`Target`.
        class_keys: Short names of the classes, background first.
        values: Threshold of each foreground class, in their order; None if it has none, since no
            threshold reaches the target or no patient has the structure.
        unions: The same of the unions, which are reported and not segmented.
        reached: The target's measure on the patients that they were chosen on, by class and union.
        cases: The cases that they were chosen on.
        patients: Their patients, sorted.
        calibrator: Method of the calibrator of the probabilities, if any.
        probabilities: Hash of what the probabilities follow from (weights, calibrator, mirroring,
            window, precision), if known.
    """

    target: str
    class_keys: tuple[str, ...]
    values: Mapping[str, float | None]
    unions: Mapping[str, float | None]
    reached: Mapping[str, float | None]
    cases: tuple[str, ...]
    patients: tuple[str, ...]
    calibrator: str | None = None
    probabilities: str | None = None

    @property
    def name(self) -> str:
        """The target in names of files and tests."""
        return Target.parse(self.target).name

    def label_map(self, probs: Tensor) -> Tensor:
        """Return the class of each voxel, see :func:`mbls.decisions.label_map`.

        Args:
            probs: Probabilities ``(N, C, *S)``.

        Returns:
            int64 ``(N, *S)``.

        Raises:
            DecisionError: Another number of classes, or a class without a threshold.
        """
        if lacking := [name for name, value in self.values.items() if value is None]:
            raise DecisionError(
                f"There is no threshold for {self.target} of {', '.join(lacking)}, so there is no "
                "label map: choose another TARGET (--target)."
            )
        if probs.shape[1] != len(self.class_keys):
            raise DecisionError(
                f"The thresholds are of the classes {', '.join(self.class_keys)}, got "
                f"probabilities of {probs.shape[1]} classes. {AGAIN}"
            )
        values = cast("Sequence[float]", list(self.values.values()))
        return label_map(probs, torch.tensor(values, dtype=torch.float32))

    def save(self, path: Path) -> None:
        """Write a JSON file."""
        save_json(path, FORMAT, vars(self))

    @classmethod
    def load(cls, path: Path) -> "Thresholds":
        """Read a file of :meth:`save`.

        Raises:
            DecisionError: It is not such a file.
        """
        try:
            content = load_json(path, FORMAT)
            tuples: dict[str, Any] = {
                k: tuple(content.pop(k)) for k in ("class_keys", "cases", "patients")
            }
            found = cls(**content, **tuples)
            Target.parse(found.target)
            if tuple(found.values) != found.class_keys[1:]:
                raise ValueError("its thresholds are not those of its classes")
            known = [v for v in found.values.values() if v is not None]
            if not all(isinstance(v, float | int) and 0 <= v < 1 for v in known):
                raise ValueError("thresholds must be in [0, 1)")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DecisionError(f"{path} is no file of thresholds: {error}. {AGAIN}") from error
        return found


def choose(run: TestRun, target: Target) -> Thresholds:
    """Return the threshold of each structure that suits the target on the patients of a test.

    Args:
        run: Counts of the patients to choose on, never those that a result is reported on.
        target: ``dice``: the highest mean Dice, of equal ones the threshold nearest to 1/2.
            ``recall``: the highest threshold whose mean recall reaches the value. ``precision``:
            the lowest threshold whose mean precision reaches it. Means are over the cases where
            the measure is defined, see :func:`mbls.decisions.case_scores`.
    """
    counts = threshold_counts(run.bins)
    places = chosen_places(counts, target)
    keys = tuple(run.meta.get("class_keys") or run.meta["class_names"])
    names = [*keys[1:], *run.bins.channels[1 + run.bins.num_classes :]]
    means = _means(counts, target.measure)
    picked = {
        n: None if k < 0 else float(THRESHOLDS[k]) for n, k in zip(names, places, strict=True)
    }
    reached = {
        name: None if k < 0 else float(mean[k])
        for name, k, mean in zip(names, places, means, strict=True)
    }
    foreground = len(keys) - 1
    return Thresholds(
        target.text, keys,
        values={name: picked[name] for name in names[:foreground]},
        unions={name: picked[name] for name in names[foreground:]},
        reached=reached,
        cases=tuple(run.cases), patients=tuple(sorted(set(run.patients))),
        calibrator=run.meta.get("calibrator"), probabilities=run.meta.get("probabilities"),
    )  # fmt: skip


def chosen_places(counts: np.ndarray, target: Target) -> np.ndarray:
    """Return the position of each structure's threshold ``(structures,)``, -1 where there is none.

    Args:
        counts: ``(cases, structures, 60, 3)`` of :func:`mbls.decisions.threshold_counts`.
        target: As of :func:`choose`.
    """
    return np.array([_place(mean, target) for mean in _means(counts, target.measure)], dtype=int)


def _means(counts: np.ndarray, measure: Overlap) -> np.ndarray:
    """Return the mean over cases at each threshold ``(structures, 60)``."""
    scores = case_scores(counts)[measure]
    return mean_of_draws(scores, np.ones((1, len(scores))))[0]


def _place(mean: np.ndarray, target: Target) -> int:
    if np.isnan(mean).all():
        return -1
    if target.least is None:
        equal = np.flatnonzero(mean == np.nanmax(mean))
        return int(equal[np.abs(THRESHOLDS[equal] - 0.5).argmin()])
    enough = np.flatnonzero(mean >= target.least)  # NaN is not
    if not len(enough):
        return -1
    return int(enough[-1] if target.measure == "recall" else enough[0])
