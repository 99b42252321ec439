r"""Measures of the confidence of a case, from its sums.

With the predicted mask A of a structure and its probability p at each voxel,

- ``soft_dice``: :math:`2\sum_A p / (\sum p + |A|)`, the soft Dice confidence (Borges et al. 2024,
  arXiv:2402.10665). Where nothing is predicted it is :math:`\max(0, 1 - \sum p)` here, a lower
  bound of the probability that the structure is absent; the paper's formula gives 0;
- ``expected_dice``: the expected Dice of the mask if voxels were independent, to second order. Its
  first-order term is ``soft_dice``, so the two differ for structures of few voxels alone;
- ``entropy``: minus the mean entropy of the voxels' classes in nats, over all voxels, or over those
  near the predicted foreground;
- ``agreement``: mean pairwise Dice of the members of an ensemble, of pairs of which one predicts
  the structure (Zenk et al. 2025, arXiv:2406.03323).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["ConfidenceSums", "case_mean"]

PREFIX = "confidence_"
PROBABILITY = ("p in mask", "p", "p^2 in mask", "p^2", "mask")
ENTROPY = ("entropy", "voxels", "entropy near", "voxels near")


def case_mean(values: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the mean over the foreground classes ``(cases,)``; NaN if all are.

    Args:
        values: ``(cases, classes + unions)``, background first; NaN is skipped.
        num_classes: Number of classes, background included.
    """
    of = values[:, 1:num_classes]
    known = ~np.isnan(of)
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = np.where(known, of, 0).sum(1) / known.sum(1)
    return mean


@dataclass(frozen=True)
class ConfidenceSums:
    """Sums over the voxels of each case that its label does not ignore.

    Attributes:
        probability: ``(cases, classes + unions, 5)``: probability in the predicted mask and of all
            voxels, its square likewise, voxels of the mask.
        entropy: ``(cases, 4)``: entropy of all voxels, their number, and both near the predicted
            foreground.
        agreement: Mean pairwise Dice of the members of an ensemble ``(cases, classes + unions)``,
            NaN where none predicts the structure; None for a single network.
    """

    probability: np.ndarray
    entropy: np.ndarray
    agreement: np.ndarray | None = None

    @classmethod
    def joined(cls, parts: Sequence["ConfidenceSums"]) -> "ConfidenceSums":
        """Return the sums of the cases of several tests."""
        agreement = [part.agreement for part in parts if part.agreement is not None]
        return cls(
            np.concatenate([part.probability for part in parts]),
            np.concatenate([part.entropy for part in parts]),
            np.concatenate(agreement) if len(agreement) == len(parts) else None,
        )

    def soft_dice(self) -> np.ndarray:
        """Return the soft Dice confidence ``(cases, classes + unions)``."""
        inside, total, _, _, mask = np.moveaxis(self.probability, -1, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = 2 * inside / (total + mask)
        return np.where(mask > 0, found, np.maximum(1 - total, 0))

    def expected_dice(self) -> np.ndarray:
        r"""Return the expected Dice of the predicted mask ``(cases, classes + unions)``.

        For independent voxels the labeled voxels in the mask have the mean :math:`X = \sum_A p`
        and the variance :math:`\sum_A p(1-p)`, those outside likewise. The Taylor expansion of
        :math:`2x / (|A| + x + y)` around the means is taken to second order, limited to [0, 1].
        """
        inside, total, inside2, total2, mask = np.moveaxis(self.probability, -1, 0)
        spread, outer = inside - inside2, (total - inside) - (total2 - inside2)
        size = mask + total
        with np.errstate(invalid="ignore", divide="ignore"):
            found = (
                2 * inside / size
                + spread * (2 * inside / size - 2) / size**2
                + outer * 2 * inside / size**3
            )
        return np.where(mask > 0, found.clip(0, 1), np.maximum(1 - total, 0))

    def mean_entropy(self, *, near: bool) -> np.ndarray:
        """Return the mean entropy ``(cases,)`` in nats; NaN without such a voxel."""
        of = self.entropy[:, 2:] if near else self.entropy[:, :2]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean: np.ndarray = of[:, 0] / of[:, 1]
        return mean

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of a file, with named axes."""
        found = {
            "probability": self.probability,
            "probability_sum": np.array(PROBABILITY),
            "entropy": self.entropy,
            "entropy_sum": np.array(ENTROPY),
        }
        if self.agreement is not None:
            found["agreement"] = self.agreement
        return {f"{PREFIX}{name}": array for name, array in found.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "ConfidenceSums | None":
        """Return the sums in a file of :meth:`arrays`; None in a file of earlier versions."""
        if f"{PREFIX}probability" not in arrays:
            return None
        return cls(
            arrays[f"{PREFIX}probability"], arrays[f"{PREFIX}entropy"],
            arrays.get(f"{PREFIX}agreement"),
        )  # fmt: skip
