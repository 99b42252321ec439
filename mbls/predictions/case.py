"""What a source of predictions yields: one case at a time, whatever the files are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

__all__ = ["Prediction", "Source"]


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


class Source(Protocol):
    """Predictions of several cases, read one by one.

    Attributes:
        name: Name for tables, such as that of the dataset.
        kind: ``"classes"``, of which each voxel has one, or ``"regions"``, which may overlap.
        class_names: Names of the classes, background first, or of the regions.
        cases: Names of the cases.
        patients: Patient of each case.
        folds: Fold of each case whose network was not trained on it, or None.
    """

    name: str
    kind: Literal["classes", "regions"]
    class_names: tuple[str, ...]
    cases: Sequence[str]
    patients: Sequence[str]
    folds: Sequence[int] | None

    def read(self, case: str) -> Prediction:
        """Return a case's prediction and label."""

    def write(self, folder: Path, case: str, probs: Tensor) -> list[Path]:
        """Write probabilities ``(C, *S)`` of a case and its label map as the source keeps them."""
