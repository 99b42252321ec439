"""Regions that may overlap (sigmoid heads): each is calibrated as a problem of two classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from mbls.posthoc.base import Calibrator, Card
from mbls.posthoc.fit import Fit
from mbls.posthoc.voxels import Piece

__all__ = ["RegionFits", "Regions", "two_classes"]


@dataclass(frozen=True, eq=False)
class Regions(Calibrator):
    """A calibrator for each region.

    :meth:`apply` takes and returns the log-probabilities ``(R, *S)`` of being inside; a case's
    :meth:`mbls.predictions.Prediction.log_probs`.

    Attributes:
        calibrators: The calibrators of two classes, the rest and the region.
    """

    calibrators: tuple[Calibrator, ...]
    method: ClassVar[str] = "regions"

    def __post_init__(self) -> None:
        if len(self.calibrators) != self.num_classes:
            raise ValueError(f"{len(self.calibrators)} calibrators of {self.num_classes} regions")
        for each in self.calibrators:
            if each.num_classes != 2:
                raise ValueError(f"a region's calibrator of {each.num_classes} classes, not 2")

    def map(self, log_probs: Tensor) -> Tensor:
        """Return calibrated log-probabilities ``(R, *S)``."""
        pairs = zip(self.calibrators, log_probs, strict=True)
        return torch.stack([each.map(two_classes(inside))[1] for each, inside in pairs])

    def parameters(self) -> dict[str, Any]:
        """Return the content of each region's file."""
        return {"calibrators": [each.to_json() for each in self.calibrators]}

    @classmethod
    def from_parameters(cls, card: Card, parameters: Mapping[str, Any]) -> Self:
        """Return a calibrator from :meth:`parameters`."""
        return cls(card, tuple(map(Calibrator.from_json, parameters["calibrators"])))


def two_classes(inside: Tensor) -> Tensor:
    r"""Return log-probabilities ``(2, *S)`` of the rest and of a region.

    A probability of exactly 1 stands for one that rounds to it: the rest has half an epsilon.

    Args:
        inside: Log-probabilities of the region ``(*S)``, float32 or float64.
    """
    least = torch.finfo(inside.dtype).eps / 4
    return torch.stack([inside.expm1().neg_().clamp_min_(least).log_(), inside])


class RegionFits(Fit):
    """A fit for each region, on the same cases."""

    def __init__(self, parts: Sequence[Fit]) -> None:
        super().__init__()
        self.parts = parts
        self.waiting = list(parts)

    def add(self, piece: Piece, patient: str) -> None:
        """Add a piece of one region."""
        part = self.parts[piece.region]
        if part in self.waiting:
            part.add(piece, patient)

    def end_pass(self) -> bool:
        """End a pass, and return True if no region needs another."""
        self.waiting = [part for part in self.waiting if not part.end_pass()]
        return not self.waiting

    def calibrator(self, card: Card) -> Calibrator:
        """Return the calibrators of all regions."""
        found = []
        for name, part in zip(card.class_names, self.parts, strict=True):
            part.cases = self.cases
            found.append(part.calibrator(Card(("rest", name), card.cases, card.patients)))
        return Regions(card, tuple(found))
