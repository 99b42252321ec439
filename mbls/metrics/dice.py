"""Dice overlap per volume, for each class and union, from integer counts."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from mbls.metrics.settings import settings_digest
from mbls.metrics.voxels import check_index, check_shapes, check_unions

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


class DiceScore(Metric):
    """Dice of whole volumes, for the most probable class.

    The state ``counts`` is int64 ``(cases, classes + unions, 3)``: intersection, predicted and
    labelled voxels of each class (background first) and union. A union is predicted where the most
    probable class is one of its members.

    Args:
        num_classes: Number of classes, background included.
        unions: Named sets of classes.
        num_cases: Number of cases; ``index`` says which one a volume is.
        ignore_index: Label of voxels to leave out.
        kwargs: Settings of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: For malformed unions or a count of cases below one.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    counts: Tensor
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
        self.num_classes, self.num_cases, self.ignore_index = num_classes, num_cases, ignore_index
        zeros = torch.zeros(num_cases, num_classes + len(self.unions), 3, dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")
        digest = settings_digest("dice", num_classes, self.unions, num_cases, ignore_index)
        self.add_state("settings", digest, dist_reduce_fx="max")

    @property
    def channels(self) -> tuple[str, ...]:
        """Names along the second axis of ``counts``: class numbers, then unions."""
        return (*map(str, range(self.num_classes)), *self.unions)

    def update(
        self,
        probs: Tensor,
        target: Tensor,
        *,
        spacing: Tensor | None = None,
        index: Tensor | None = None,
    ) -> None:
        """Add volumes: probabilities (or logits) ``(N, C, *S)`` and labels ``(N, *S)``.

        Raises:
            TypeError: If dtypes are not floats and labels.
            ValueError: If shapes do not match, labels are no classes, or an index is missing or out
                of range.
        """
        del spacing
        target = check_shapes(probs, target, self.num_classes)
        numbers = check_index(index, probs.shape[0], self.num_cases)
        C = self.num_classes
        tables = []
        for n in range(probs.shape[0]):
            labels = target[n].long().reshape(-1)
            labels = labels.masked_fill(labels == self.ignore_index, C)
            # What is no class would count elsewhere in the table: it has a column of its own.
            labels = labels.masked_fill((labels < 0) | (labels > C), C + 1)
            pairs = probs[n].argmax(0).reshape(-1) * (C + 2) + labels
            tables.append(torch.bincount(pairs, minlength=C * (C + 2)).view(C, C + 2))
        if not tables:
            return
        table = torch.stack(tables)  # (N, predicted, labelled)
        if wrong := int(table[..., C + 1].sum()):
            raise ValueError(
                f"target must hold classes 0..{C - 1} or ignore_index {self.ignore_index}, got "
                f"{wrong} voxels with something else."
            )
        table = table[..., :C]
        assert numbers is not None  # num_cases is always given
        for row, number in zip(table, numbers, strict=True):
            for channel, members in enumerate([(k,) for k in range(C)] + [*self.unions.values()]):
                chosen = list(members)
                both = row[chosen][:, chosen].sum()
                counted = torch.stack([both, row[chosen].sum(), row[:, chosen].sum()])
                self.counts[number, channel] += counted

    def compute(self) -> Tensor:
        """Return Dice ``(cases, classes + unions)``, float64; NaN where the label is absent."""
        return torch.from_numpy(dice_scores(self.counts.cpu().numpy()))
