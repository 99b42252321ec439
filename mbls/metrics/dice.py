"""Dice overlap per volume, for each class and union, from integer counts."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mbls.metrics._kernel.checks import check_shapes, is_class_map
from mbls.metrics._kernel.confusion import confusion
from mbls.metrics.volumes import VolumeMetric

Absent = Literal["nan", "one"]


def dice_scores(counts: np.ndarray, *, absent: Absent = "nan") -> np.ndarray:
    r"""Return :math:`2|A\cap B|/(|A|+|B|)`.

    Args:
        counts: Integers ``(..., 3)``: intersection, predicted, labeled voxels.
        absent: Score of a structure that is absent from the label: ``"nan"``, which averages skip,
            or ``"one"``, as in published code, for any prediction.

    Returns:
        float64 ``(...)``.

    Raises:
        ValueError: If ``absent`` is neither.
    """
    if absent not in ("nan", "one"):
        raise ValueError(f"absent must be 'nan' or 'one', got {absent!r}.")
    both, predicted, labeled = np.moveaxis(np.asarray(counts), -1, 0)
    score = 2 * both / np.maximum(predicted + labeled, 1)
    return np.where(labeled > 0, score, np.nan if absent == "nan" else 1.0)


class DiceScore(VolumeMetric):
    r"""Dice overlap :math:`2|A\cap B|/(|A|+|B|)` of whole volumes (Dice 1945).

    ``compute`` returns a scalar: the mean over volumes of each foreground class, averaged over the
    classes; :meth:`per_class` returns the means. Structures that are absent from a label are
    skipped. Each volume must be passed as a whole.

    It counts predicted classes, so it has no value for soft labels (class probabilities, such as
    the mean of several readers), which are refused: score each reader, or use
    ``1 - mbls.losses.soft_dice_loss(probs, target)``, which is 1 for equal probabilities alone.

    With ``num_cases``, ``compute`` returns each case's Dice ``(cases, classes + unions)``, from the
    state ``counts``, int64 ``(cases, classes + unions, 3)``: intersection, predicted and labeled
    voxels of each class (background first) and union; parts of a case add up.

    Args:
        num_classes: Number of classes C, background (class 0) included.
        unions: Named sets of classes; one is predicted where the predicted class is a member.
        num_cases: Number of cases, identified by ``index``; None averages over volumes.
        ignore_index: Label of voxels that are ignored, also in the prediction.
        kwargs: Settings of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: Invalid unions, ``num_cases`` below 1, or ``ignore_index`` is a class.

    Example:
        >>> target = torch.tensor([[0, 1, 1, 2]])
        >>> probs = torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
        >>> dice = DiceScore(3)
        >>> dice.update(probs, target)  # probabilities (N, C, *S)
        >>> dice.update(torch.tensor([[0, 1, 0, 2]]), target)  # or classes (N, *S)
        >>> [round(score, 4) for score in dice.per_class()[1:].tolist()]
        [0.8333, 1.0]
    """

    higher_is_better = True
    plot_lower_bound, plot_upper_bound = 0.0, 1.0

    counts: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        unions: Mapping[str, Sequence[int]] | None = None,
        num_cases: int | None = None,
        ignore_index: int = -100,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_classes, unions=unions, num_cases=num_cases, ignore_index=ignore_index, **kwargs
        )
        if num_cases is not None:
            zeros = torch.zeros(num_cases, len(self.members), 3, dtype=torch.int64)
            self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(
        self,
        probs: Tensor,
        target: Tensor,
        *,
        spacing: Tensor | None = None,
        index: Tensor | None = None,
    ) -> None:
        """Add volumes; an invalid batch changes nothing.

        Args:
            probs: Probabilities or logits ``(N, C, *S)``, or predicted classes ``(N, *S)``.
            target: Labels ``(N, *S)`` or ``(N, 1, *S)``, integers or whole floats.
            spacing: Unused; accepted for a common signature of all metrics.
            index: Case numbers ``(N,)``; required with ``num_cases``.

        Raises:
            TypeError: Invalid dtypes of scores or labels.
            ValueError: If shapes do not match, scores are NaN, labels are not classes, or an index
                is missing or out of range.
        """
        del spacing
        for case, table in self._tables(probs, target, index):
            counts = []
            for members in self.members.values():
                chosen = list(members)
                both = table[chosen][:, chosen].sum()
                counts.append(torch.stack([both, table[chosen].sum(), table[:, chosen].sum()]))
            if self.num_cases is None:
                self.average_in(dice_scores(torch.stack(counts).cpu().numpy()))
            else:
                self.counts[case] += torch.stack(counts).to(self.counts.device)

    def _tables(
        self, probs: Tensor, target: Tensor, index: Tensor | None
    ) -> list[tuple[int, Tensor]]:
        """Return each volume's case and its counts ``(C, C)`` of predicted and labeled class."""
        C = self.num_classes
        labels = check_shapes(probs, target, C, class_maps=True)
        fast = probs.device.type == "cpu" and not labels.is_floating_point()
        if fast and not is_class_map(probs):
            cases = self.numbers(index, probs)
            pairs = zip(probs.detach(), labels, strict=True)
            found = [confusion(*pair, self.ignore_index) for pair in pairs]
            tables = [table for table in found if table is not None]
            if len(tables) == len(found):
                return list(zip(cases, tables, strict=True))
        return [
            (case, torch.bincount(pair, minlength=(C + 1) ** 2).view(C + 1, C + 1)[:C, :C])
            for case, predicted, labeled in self.label_maps(probs, target, index)
            for pair in [(predicted.long() * (C + 1) + labeled).reshape(-1)]
        ]

    def scores(self) -> np.ndarray:
        """Return Dice ``(cases, classes + unions)``, NaN where the label is absent."""
        return dice_scores(self.counts.cpu().numpy())
