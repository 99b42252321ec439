r"""Masks of a probability above any level, scored against many drawn labels.

Where the distribution of a case's labels is known, as on phantoms, the expected Dice of a mask is
the mean over drawn labels. Their voxels are correlated (a boundary moves as a whole), so it does
not follow from the probabilities of the voxels. All masks :math:`\{p_k > t\}` of a case are scored
at once: voxels are counted by cells of the log-odds of :math:`p_k`, of each drawn label apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

__all__ = ["CELLS", "Levels", "calibrated_mass", "count_levels"]

CELLS = 560
REACH = 14.0
"""Cells of equal width in log-odds from -14 to 14: a probability is known to 5 % of its odds."""


@dataclass(frozen=True)
class Levels:
    """Voxels of cases, of each foreground class by the cell of its probability.

    Attributes:
        voxels: Number of voxels, int64 ``(cases, structures, cells)``.
        probs: Sum of the probability, float64, the same shape.
        truth: Sum of the true probability, float64, the same shape.
        hits: Voxels of the structure in each drawn label, int32
            ``(cases, labels, structures, cells)``.
        likeliest: Voxels where the class is the likeliest, int64 ``(cases, structures)``.
        likeliest_hits: Those that have the class in each drawn label, int64
            ``(cases, labels, structures)``.
    """

    voxels: np.ndarray
    probs: np.ndarray
    truth: np.ndarray
    hits: np.ndarray
    likeliest: np.ndarray
    likeliest_hits: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence["Levels"]) -> "Levels":
        """Return the cases of several."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Return the arrays by name, for an npz file."""
        return {f"{prefix}_{name}": array for name, array in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], prefix: str) -> "Levels":
        """Return those of :meth:`arrays`."""
        return cls(*(arrays[f"{prefix}_{f.name}"] for f in fields(cls)))

    @property
    def labeled(self) -> np.ndarray:
        """Voxels of each structure in each drawn label, ``(cases, labels, structures)``."""
        return np.asarray(self.hits.sum(axis=-1, dtype=np.int64))

    def dice(self, case: int) -> np.ndarray:
        """Return the Dice of the masks from each cell on, ``(labels, structures, cells)``.

        It is NaN for labels without the structure, which our Dice skips.
        """
        both, size = _from_each_on(self.hits[case]), _from_each_on(self.voxels[case])
        return _dice(both, size, self.labeled[case][..., None])

    def likeliest_dice(self) -> np.ndarray:
        """Return the Dice of the predicted classes, ``(cases, labels, structures)``."""
        return _dice(self.likeliest_hits, self.likeliest[:, None], self.labeled)

    def optimal(self, mass: np.ndarray) -> np.ndarray:
        """Return the cell from which on the expected Dice for independent voxels is highest.

        It is the rule of :func:`mbls.decisions.optimal_dice`, at the edges of cells.

        Args:
            mass: Sum of the probability in each cell ``(cases, structures, cells)``: of the
                network's own, of calibrated ones, or the true one.

        Returns:
            ``(cases, structures)``.
        """
        size, total = _from_each_on(self.voxels), mass.sum(axis=-1, keepdims=True)
        with np.errstate(invalid="ignore"):
            dice = 2 * _from_each_on(mass) / (size + total)
        return np.asarray(np.nan_to_num(dice).argmax(axis=-1))


def calibrated_mass(own: Levels) -> np.ndarray:
    """Return the sum of E[q | p] in each cell ``(cases, structures, cells)``.

    E[q | p] is the isotonic regression of the true probability on the cell of p, over all cases.
    """
    voxels, truth = own.voxels.sum(axis=0), own.truth.sum(axis=0)
    mean = np.zeros(voxels.shape)
    for k, count in enumerate(voxels):
        seen = count > 0
        fit = isotonic_regression(truth[k, seen] / count[seen], weights=count[seen])
        mean[k, seen] = fit.x
    return np.asarray(own.voxels * mean)


def count_levels(
    probs: np.ndarray, posterior: np.ndarray, labels: np.ndarray, known: np.ndarray
) -> Levels:
    """Count a case.

    Args:
        probs: Probabilities ``(C, *S)``.
        posterior: The true ones ``(C, *S)``.
        labels: Drawn labels, integers ``(labels, *S)``.
        known: Voxels to count, bool ``(*S)``: those that are not ignored.
    """
    structures = range(1, len(probs))
    probs, posterior, labels = (each[:, known] for each in (probs, posterior, labels))
    predicted = probs.argmax(axis=0)
    columns = []
    for k in structures:
        cells = _cells(probs[k])
        counted = [np.bincount(cells, weights, CELLS) for weights in (None, probs[k], posterior[k])]
        where = np.flatnonzero((labels == k).any(axis=0))
        drawn, inside, mine = labels[:, where] == k, cells[where], predicted[where] == k
        hits = np.array([np.bincount(inside[one], minlength=CELLS) for one in drawn], np.int32)
        both = (drawn & mine).sum(axis=1)
        columns.append((*counted, hits, np.array((predicted == k).sum()), both))
    stacked = [np.stack(arrays) for arrays in zip(*columns, strict=True)]
    for place in (3, 5):  # of each label, before the structures
        stacked[place] = np.swapaxes(stacked[place], 0, 1)
    return Levels(*(array[None] for array in stacked))


def _cells(p: np.ndarray) -> np.ndarray:
    """Return the cell of each probability; those beyond the ends are in the first and last."""
    wide = p.astype(np.float64)
    with np.errstate(divide="ignore"):
        odds = np.log(wide) - np.log1p(-np.minimum(wide, 1))
    scaled = (odds + REACH) * (CELLS / (2 * REACH))
    return np.clip(scaled, 0, CELLS - 1).astype(np.int64)


def _from_each_on(counts: np.ndarray) -> np.ndarray:
    """Return the sum of each cell and those above it, along the last axis."""
    return np.flip(np.flip(counts, -1).cumsum(-1), -1)


def _dice(both: np.ndarray, size: np.ndarray, labeled: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(labeled > 0, 2 * both / (size + labeled), np.nan)
