"""Base class of overlap and surface metrics: cases, structures, and the predicted class.

These metrics only use the predicted class, so they accept probabilities, logits and class maps, but
neither NaN nor invalid labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mbls.metrics._kernel.checks import check_index, check_shapes, is_class_map, refuse_labels
from mbls.metrics._kernel.fixed_point import FIXED_ONE
from mbls.metrics._kernel.pieces import memory_order, slabs
from mbls.metrics.base import CaseMetric


class LabelMaps(NamedTuple):
    """One volume: its case number, and int16 classes ``S``; C marks ignored voxels."""

    case: int
    predicted: Tensor
    labeled: Tensor


class VolumeMetric(CaseMetric):
    """Base of the overlap and surface metrics, with a score per case and structure.

    With ``num_cases``, ``compute`` returns ``(cases, classes + unions)``. Without, each volume is a
    case, and ``compute`` returns a scalar: the mean over cases of each foreground class, averaged
    over the classes. It is computed from the integer states ``total`` (in units of 2**-30) and
    ``number`` ``(classes + unions,)``, so it does not depend on order or processes. Structures that
    are absent from a label are skipped.
    """

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
        super().__init__(
            num_classes, unions=unions, num_cases=num_cases, ignore_index=ignore_index, **kwargs
        )
        if num_cases is None:
            for name in ("total", "number"):
                zeros = torch.zeros(len(self.members), dtype=torch.int64)
                self.add_state(name, zeros, dist_reduce_fx="sum")
        self.add_settings_state(type(self).__name__)

    @property
    def members(self) -> dict[str, tuple[int, ...]]:
        """Classes of each structure by name: the class numbers, then the unions."""
        return {str(k): (k,) for k in range(self.num_classes)} | self.unions

    def average_in(self, scores: np.ndarray) -> None:
        """Add a case's scores ``(classes + unions,)`` to the mean; NaN is skipped."""
        known = ~np.isnan(scores)
        fixed = np.rint(np.where(known, scores, 0) * FIXED_ONE).astype(np.int64)
        self.total += torch.from_numpy(fixed).to(self.total.device)
        self.number += torch.from_numpy(known).to(self.number.device)

    def scores(self) -> np.ndarray:
        """Return each case's score ``(cases, classes + unions)``, NaN where a label is absent."""
        raise NotImplementedError

    def per_class(self) -> Tensor:
        """Return the mean over cases of each class and union, ``(classes + unions,)`` float64.

        The background comes first; NaN if no label has the structure. With several processes, call
        it inside ``with metric.sync_context():``.
        """
        if self.num_cases is not None:
            return torch.from_numpy(self.scores()).nanmean(0)
        return self.total.double() / FIXED_ONE / self.number

    def compute(self) -> Tensor:
        """Return a float64 scalar, the mean over foreground classes of :meth:`per_class`.

        With ``num_cases``, return each case's scores, ``(cases, classes + unions)``. The mean is
        NaN if no label has a foreground class.
        """
        if self.num_cases is not None:
            return torch.from_numpy(self.scores())
        return self.per_class()[1 : self.num_classes].nanmean()

    def label_maps(self, probs: Tensor, target: Tensor, index: Tensor | None) -> list[LabelMaps]:
        """Check a batch as a whole and return its volumes.

        Args:
            probs: Probabilities or logits ``(N, C, *S)``, or predicted classes ``(N, *S)``.
            target: Labels ``(N, *S)`` or ``(N, 1, *S)``.
            index: Case numbers ``(N,)``; without ``num_cases`` volumes are numbered in order.

        Raises:
            TypeError: Invalid dtypes of scores or labels.
            ValueError: If shapes do not match, scores are NaN, labels are not classes, or an index
                is missing or out of range.
        """
        target = check_shapes(probs, target, self.num_classes, class_maps=True)
        C, classes_given = self.num_classes, is_class_map(probs)
        maps, found = [], []
        for number, scores, given in zip(self.numbers(index, probs), probs, target, strict=True):
            predicted = torch.empty(given.shape, dtype=torch.int16, device=probs.device)
            labeled = torch.empty_like(predicted)
            both = [predicted, labeled]
            if not classes_given:  # slab by slab as they lie in memory
                axes = [axis - 1 for axis in memory_order(scores)]
                scores = scores.permute(0, *(axis + 1 for axis in axes))
                given, *both = (t.permute(axes) for t in (given, *both))
            for part in slabs(given.shape):
                ignored = given[part] == self.ignore_index
                labels = given[part].masked_fill(ignored, 0)
                if classes_given:
                    chosen = top = scores[part].masked_fill(ignored, 0)
                else:
                    top, chosen = scores[:, part].max(0)
                low, high = torch.aminmax(labels)
                broken = (labels.double() - labels.round()).abs().amax()
                extremes = (low, high, broken, *torch.aminmax(top))
                found.append(torch.stack([value.double() for value in extremes]))
                for numbers, values in zip(both, (chosen, labels), strict=True):
                    numbers[part] = values
                    numbers[part].masked_fill_(ignored, C)
            maps.append(LabelMaps(number, predicted, labeled))
        if found:
            each = torch.stack(found)
            low, _, _, least, _ = each.amin(0).tolist()
            _, high, broken, _, most = each.amax(0).tolist()
            refuse_labels("target", low, high, broken, C, self.ignore_index)
            if classes_given:
                refuse_labels("probs", least, most, 0, C, self.ignore_index)
            elif np.isnan(most):
                raise ValueError("probs must not be NaN; the NaN comes from the network.")
        return maps

    def numbers(self, index: Tensor | None, probs: Tensor) -> list[int]:
        """Return the case number of each volume; 0, 1, ... without ``num_cases``."""
        given = check_index(index, len(probs), self.num_cases)
        return list(range(len(probs))) if given is None else given
