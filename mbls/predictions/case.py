"""A predicted case: probabilities and label on one grid."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Prediction"]


@dataclass(frozen=True)
class Prediction:
    """Predicted probabilities of a case on the grid of its label.

    Attributes:
        case: Name of the case.
        probs: Probabilities ``(C, *S)``, float32 or float64, that sum to 1 over the classes; with
            :attr:`regions` ``(R, *S)``, one probability for each region.
        label: int64 ``(*S)``, -100 for ignored voxels; with :attr:`regions` ``(R, *S)``, 0 or 1.
        spacing: Voxel size along ``*S`` in mm.
        zero: What a probability of 0 stands for, half the smallest step of the file's numbers.
        regions: True if the channels are regions that may overlap, each a binary problem.
        image: Image ``(M, *S)`` that the network saw, if known.
    """

    case: str
    probs: Tensor
    label: Tensor
    spacing: tuple[float, ...]
    zero: float = 2.0**-150
    regions: bool = False
    image: Tensor | None = None

    def log_probs(self) -> Tensor:
        """Return log-probabilities ``(C, *S)``, float32 or float64; 0 counts as :attr:`zero`."""
        return self.log_of(self.probs)

    def log_of(self, probs: Tensor) -> Tensor:
        """Return logarithms of some of the probabilities."""
        least = max(self.zero, torch.finfo(probs.dtype).tiny)
        return probs.clamp_min(least).log_()

    def binary(self, region: int) -> "Prediction":
        """Return one region as a problem of two classes, the rest first."""
        inside = self.probs[region]
        return replace(
            self,
            probs=torch.stack([1 - inside, inside]),
            label=self.label[region],
            regions=False,
        )
