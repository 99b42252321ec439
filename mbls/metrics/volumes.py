"""What metrics of whole volumes share: cases, structures, and the most probable class.

Overlap and surface metrics look at the most probable class alone, so they take logits as well as
probabilities, but neither NaN nor labels that are no class.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mbls.metrics._kernel.checks import (
    check_ignore_index,
    check_index,
    check_shapes,
    check_unions,
)
from mbls.metrics._kernel.fixed_point import FIXED_ONE
from mbls.metrics._kernel.pieces import slabs
from mbls.metrics.exact import ExactMetric
from mbls.metrics.settings import settings_digest


class LabelMaps(NamedTuple):
    """One volume: its case number, and int16 classes 0..C-1 ``S``, C where a voxel is ignored."""

    case: int
    predicted: Tensor
    labelled: Tensor


class VolumeMetric(ExactMetric):
    """Base of the overlap and surface metrics, which have a score for each case and structure.

    With ``num_cases`` the cases are kept apart and ``compute`` returns ``(cases, classes +
    unions)``. Without, each volume is a case of its own and ``compute`` returns one number: the
    mean over cases of each foreground class, averaged over the classes. It comes from the integer
    states ``total`` (in units of 2**-30) and ``number`` ``(classes + unions,)``, so it does not
    depend on order or processes either. A structure that a case's label lacks is left out.

    Args:
        num_classes: Number of classes, background included.
        unions: Named sets of classes; one is predicted where the most probable class is a member.
        num_cases: Number of cases; ``index`` says which one a volume is. None averages.
        ignore_index: Label of voxels to leave out, in the prediction too.
        kwargs: Settings of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: For malformed unions, a count of cases below one, or a class to ignore.
    """

    settings: Tensor
    total: Tensor
    number: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        unions: Mapping[str, Sequence[int]] | None,
        num_cases: int | None,
        ignore_index: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.unions = check_unions(num_classes, unions)
        if num_cases is not None and num_cases < 1:
            raise ValueError(f"num_cases must be at least 1, or None to average, got {num_cases}.")
        self.num_classes, self.num_cases = num_classes, num_cases
        self.ignore_index = check_ignore_index(ignore_index, num_classes)
        if num_cases is None:
            for name in ("total", "number"):
                zeros = torch.zeros(len(self.members), dtype=torch.int64)
                self.add_state(name, zeros, dist_reduce_fx="sum")
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

    def average_in(self, scores: np.ndarray) -> None:
        """Add one case's scores ``(classes + unions,)`` to the mean; NaN is left out."""
        known = ~np.isnan(scores)
        fixed = np.rint(np.where(known, scores, 0) * FIXED_ONE).astype(np.int64)
        self.total += torch.from_numpy(fixed).to(self.total.device)
        self.number += torch.from_numpy(known).to(self.number.device)

    def scores(self) -> np.ndarray:
        """Return each case's score ``(cases, classes + unions)``, NaN where a label is absent."""
        raise NotImplementedError

    def compute(self) -> Tensor:
        """Return :meth:`scores` as a float64 tensor; without ``num_cases`` their mean, a scalar.

        The mean is NaN where no case's label holds a foreground class.
        """
        if self.num_cases is not None:
            return torch.from_numpy(self.scores())
        foreground = slice(1, self.num_classes)
        means = self.total[foreground].double() / FIXED_ONE / self.number[foreground]
        return means.nanmean()

    def label_maps(self, probs: Tensor, target: Tensor, index: Tensor | None) -> list[LabelMaps]:
        """Check a batch as a whole and return its volumes.

        Args:
            probs: Probabilities or logits ``(N, C, *S)``.
            target: Labels ``(N, *S)`` or ``(N, 1, *S)``.
            index: Case numbers ``(N,)``; without ``num_cases`` volumes are numbered in order.

        Raises:
            TypeError: If dtypes are not floats and labels.
            ValueError: If shapes do not match, scores are NaN, labels are no classes, or an index
                is missing or out of range.
        """
        target = check_shapes(probs, target, self.num_classes)
        maps, faults = [], []
        for number, scores, given in zip(self.numbers(index, probs), probs, target, strict=True):
            predicted = torch.empty(given.shape, dtype=torch.int16, device=probs.device)
            labelled = torch.empty_like(predicted)
            for part in slabs(given.shape):
                top, chosen = scores[:, part].max(0)
                ignored = given[part] == self.ignore_index
                labels = given[part].long().masked_fill(ignored, self.num_classes)
                wrong = (labels != given[part]) | (labels < 0) | (labels >= self.num_classes)
                faults.append(torch.stack([top.isnan().sum(), (wrong & ~ignored).sum()]))
                predicted[part] = chosen.masked_fill_(ignored, self.num_classes)
                labelled[part] = labels
            maps.append(LabelMaps(number, predicted, labelled))
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

    def numbers(self, index: Tensor | None, probs: Tensor) -> list[int]:
        """Return the case number of each volume; 0, 1, ... where cases are not kept apart."""
        given = check_index(index, len(probs), self.num_cases)
        return list(range(len(probs))) if given is None else given
