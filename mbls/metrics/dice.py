"""Dice overlap per volume, for each class and union, from integer counts."""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mbls.metrics.confusion import confusion
from mbls.metrics.volumes import VolumeMetric
from mbls.metrics.voxels import check_index, check_shapes

Absent = Literal["nan", "one"]


def dice_scores(counts: np.ndarray, *, absent: Absent = "nan") -> np.ndarray:
    r"""Return :math:`2|A\cap B|/(|A|+|B|)`.

    Args:
        counts: Integers ``(..., 3)``: intersection, predicted, labelled voxels.
        absent: Score of a structure whose label is absent. ``"nan"`` leaves it out of averages;
            ``"one"`` is the published evaluators' choice, whatever was predicted.

    Returns:
        float64 ``(...)``.

    Raises:
        ValueError: If ``absent`` is neither.
    """
    if absent not in ("nan", "one"):
        raise ValueError(f"absent must be 'nan' or 'one', got {absent!r}.")
    both, predicted, labelled = np.moveaxis(np.asarray(counts), -1, 0)
    score = 2 * both / np.maximum(predicted + labelled, 1)
    return np.where(labelled > 0, score, np.nan if absent == "nan" else 1.0)


class DiceScore(VolumeMetric):
    """Dice of whole volumes, for the most probable class.

    The state ``counts`` is int64 ``(cases, classes + unions, 3)``: intersection, predicted and
    labelled voxels of each class (background first) and union. Parts of a case add up.

    Args:
        num_classes: Number of classes, background included.
        kwargs: As :class:`VolumeMetric` takes them, ``num_cases`` among them.
    """

    higher_is_better = True

    counts: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)
        zeros = torch.zeros(self.num_cases, len(self.members), 3, dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(
        self,
        probs: Tensor,
        target: Tensor,
        *,
        spacing: Tensor | None = None,
        index: Tensor | None = None,
    ) -> None:
        """Add volumes ``(N, C, *S)`` and labels ``(N, *S)``; refused as a whole or not at all.

        Raises:
            TypeError: If dtypes are not floats and labels.
            ValueError: As :meth:`VolumeMetric.label_maps` does.
        """
        del spacing
        for case, table in self._tables(probs, target, index):
            for channel, members in enumerate(self.members.values()):
                chosen = list(members)
                both = table[chosen][:, chosen].sum()
                counted = [both, table[chosen].sum(), table[:, chosen].sum()]
                self.counts[case, channel] += torch.stack(counted)

    def _tables(
        self, probs: Tensor, target: Tensor, index: Tensor | None
    ) -> list[tuple[int, Tensor]]:
        """Return each volume's case and its counts ``(C, C)`` of predicted and labelled class."""
        C = self.num_classes
        labels = check_shapes(probs, target, C)
        if probs.device.type == "cpu" and not labels.is_floating_point():
            cases = check_index(index, len(probs), self.num_cases) or []
            pairs = zip(probs.detach(), labels, strict=True)
            found = [confusion(*pair, self.ignore_index) for pair in pairs]
            tables = [table for table in found if table is not None]
            if len(tables) == len(found):
                return list(zip(cases, tables, strict=True))
        return [
            (case, torch.bincount(pair, minlength=(C + 1) ** 2).view(C + 1, C + 1)[:C, :C])
            for case, predicted, labelled in self.label_maps(probs, target, index)
            for pair in [(predicted * (C + 1) + labelled).reshape(-1)]
        ]

    def compute(self) -> Tensor:
        """Return Dice ``(cases, classes + unions)``, float64; NaN where the label is absent."""
        return torch.from_numpy(dice_scores(self.counts.cpu().numpy()))
