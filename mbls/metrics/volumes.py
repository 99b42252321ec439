"""What metrics of whole volumes share: cases told apart, classes and unions by most probable class.

Overlap and surface metrics look at the most probable class alone, so they take logits as well as
probabilities, but neither NaN nor labels that are no class.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from mbls.metrics.settings import settings_digest
from mbls.metrics.voxels import check_ignore_index, check_index, check_shapes, check_unions


class LabelMaps(NamedTuple):
    """One volume: its case number, and classes 0..C-1 ``S``, with C where a voxel is ignored."""

    case: int
    predicted: Tensor
    labelled: Tensor


class VolumeMetric(Metric):
    """Base of the overlap and surface metrics.

    Args:
        num_classes: Number of classes, background included.
        unions: Named sets of classes; one is predicted where the most probable class is a member.
        num_cases: Number of cases; ``index`` says which one a volume is.
        ignore_index: Label of voxels to leave out, in the prediction too.
        kwargs: Settings of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: For malformed unions, a count of cases below one, or a class to ignore.
    """

    full_state_update = False
    is_differentiable = False

    settings: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        unions: Mapping[str, Sequence[int]] | None = None,
        num_cases: int,
        ignore_index: int = -100,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.unions = check_unions(num_classes, unions)
        if num_cases < 1:
            raise ValueError(f"num_cases must be at least 1, got {num_cases}.")
        self.num_classes, self.num_cases = num_classes, num_cases
        self.ignore_index = check_ignore_index(ignore_index, num_classes)
        self.tell_apart()

    def tell_apart(self, *settings: object) -> None:
        """Keep compute groups from merging this metric with one of other ``settings``."""
        own = (self.num_classes, self.unions, self.num_cases, self.ignore_index)
        digest = settings_digest(type(self).__name__, *own, *settings)
        self.add_state("settings", digest, dist_reduce_fx="max")

    @property
    def members(self) -> dict[str, tuple[int, ...]]:
        """Classes of each structure by name: the class numbers, then the unions."""
        return {str(k): (k,) for k in range(self.num_classes)} | self.unions

    def label_maps(self, probs: Tensor, target: Tensor, index: Tensor | None) -> list[LabelMaps]:
        """Check a batch as a whole and return its volumes.

        Args:
            probs: Probabilities or logits ``(N, C, *S)``.
            target: Labels ``(N, *S)`` or ``(N, 1, *S)``.
            index: Case numbers ``(N,)``.

        Raises:
            TypeError: If dtypes are not floats and labels.
            ValueError: If shapes do not match, scores are NaN, labels are no classes, or an index
                is missing or out of range.
        """
        target = check_shapes(probs, target, self.num_classes)
        numbers = check_index(index, probs.shape[0], self.num_cases) or []
        maps, faults = [], []
        for number, scores, given in zip(numbers, probs, target, strict=True):
            top, predicted = scores.max(0)
            ignored = given == self.ignore_index
            labels = given.long().masked_fill(ignored, self.num_classes)
            wrong = (labels != given) | (labels < 0) | (labels >= self.num_classes)
            faults.append(torch.stack([top.isnan().sum(), (wrong & ~ignored).sum()]))
            maps.append(LabelMaps(number, predicted.masked_fill(ignored, self.num_classes), labels))
        missing, wrong_labels = torch.stack(faults).sum(0).tolist() if faults else (0, 0)
        if missing:
            raise ValueError(
                f"probs must be numbers, got NaN in {missing} voxels; it comes from the network."
            )
        if wrong_labels:
            raise ValueError(
                f"target must hold classes 0..{self.num_classes - 1} or ignore_index "
                f"{self.ignore_index}, got {wrong_labels} voxels with something else."
            )
        return maps
