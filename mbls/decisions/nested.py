"""Two families of nested masks of each structure: by a threshold, and by a margin in mm."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mbls.decisions.thresholds import THRESHOLDS, structures_of, threshold_counts
from mbls.evaluation.run import TestRun
from mbls.metrics.margins import MARGINS
from mbls.runtime.errors import DecisionError

__all__ = ["Family", "Nested", "nested_masks", "patient_means"]

Family = Literal["threshold", "margin"]


@dataclass(frozen=True)
class Nested:
    """Counts of nested masks of each structure, from no voxel to all voxels.

    Attributes:
        family: ``"threshold"``: the probability is above k/60, from 59/60 to 0; ``"margin"``: at
            most so many mm from the predicted class, from -10 to 30 mm.
        structures: Names of the classes and unions.
        values: Threshold or margin of each mask ``(masks,)``; NaN of the first, which has no voxel,
            and the last, which has all.
        counts: Labeled and all voxels of each mask, int64 ``(cases, structures, masks, 2)``.
        patients: Patient of each case.
    """

    family: Family
    structures: Sequence[str]
    values: np.ndarray
    counts: np.ndarray
    patients: Sequence[str]

    def missed(self) -> np.ndarray:
        """Return the share of the labeled voxels outside each mask ``(cases, structures, masks)``.

        NaN for a structure that is not labeled.
        """
        both = self.counts[..., 0]
        labeled = both[..., -1:]
        with np.errstate(invalid="ignore", divide="ignore"):
            share: np.ndarray = (labeled - both) / labeled
        return share

    def outside(self) -> np.ndarray:
        """Return the share of each mask outside the structure ``(cases, structures, masks)``.

        It is 0 for a mask without voxels.
        """
        both, inside = np.moveaxis(self.counts, -1, 0)
        share: np.ndarray = (inside - both) / np.maximum(inside, 1)
        return share

    def value(self, place: int) -> float | None:
        """Return the threshold or margin of a mask; None of the one without or with all voxels."""
        value = float(self.values[place])
        return None if np.isnan(value) else value


def nested_masks(run: TestRun, family: Family) -> Nested:
    """Return the nested masks of a test.

    Raises:
        DecisionError: Margins were not counted in it.
    """
    names = list(structures_of(run).values())
    if family == "threshold":
        values, counts = THRESHOLDS[::-1], _above(run)
    elif run.margins is None:
        raise DecisionError(
            "The test has no counts of margins: audit again with MARGINS=1 (--margins), or test a "
            "run with --post_hoc.margins true."
        )
    else:
        values, counts = MARGINS, run.margins[:, 1:]
    voxels = run.bins.sums[:, run.bins.region("all"), 0]
    all_of = np.stack(
        [run.dice[:, 1:, 2], np.broadcast_to(voxels[:, None], run.dice[:, 1:, 2].shape)], axis=-1
    )[:, :, None]
    masks = np.concatenate([np.zeros_like(all_of), counts, all_of], axis=2)
    return Nested(
        family, names, np.concatenate([[np.nan], values, [np.nan]]), masks, tuple(run.patients)
    )


def _above(run: TestRun) -> np.ndarray:
    """Return labeled and all voxels above each threshold, from the highest on."""
    both, wrong, _ = np.moveaxis(threshold_counts(run.bins)[:, :, ::-1], -1, 0)
    return np.stack([both, both + wrong], axis=-1)


def patient_means(values: np.ndarray, patients: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Return the mean over each patient's cases, skipping NaN, and the patients in its order.

    Args:
        values: ``(cases, ...)``; NaN where a case has no value, in all of a row or none.
        patients: Patient of each case.

    Returns:
        ``(patients, ...)``, of those with a value.
    """
    known = ~np.isnan(values.reshape(len(values), -1)[:, 0])
    own = np.array(list(patients))
    names = [str(name) for name in dict.fromkeys(own[known])]
    if not names:
        return values[:0], names
    return np.stack([values[known & (own == name)].mean(axis=0) for name in names]), names
