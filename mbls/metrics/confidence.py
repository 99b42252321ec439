"""Sums from which the confidence of a case follows, without its label."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mbls.metrics._kernel.checks import check_index, check_shapes
from mbls.metrics._kernel.fixed_point import FIXED_ONE, negative_log, to_fixed
from mbls.metrics._kernel.pieces import count_pieces
from mbls.metrics._kernel.voxel_inputs import union_probs
from mbls.metrics.base import CaseMetric
from mbls.metrics.confidence_sums import ConfidenceSums
from mbls.metrics.regions import check_spacing, dilated_mask

__all__ = ["NEAR_MM", "CaseConfidence"]

NEAR_MM = 5.0
"""Distance from the predicted foreground within which the entropy is averaged, in mm."""
TINY = 1e-30  # p log p is 0 below it


class CaseConfidence(CaseMetric):
    r"""Sums over the voxels of each case: soft Dice confidence, entropy, disagreement.

    ``compute`` returns the soft Dice confidence :math:`2\sum_A p / (\sum p + |A|)` of each class
    and union ``(cases, classes + unions)`` (Borges et al. 2024, arXiv:2402.10665), A the predicted
    mask; :meth:`sums` has the other measures. The label is used for one purpose: voxels that it
    ignores are left out, as in Dice.

    States are integers (probabilities, their squares and entropies in units of 2**-30), so they do
    not depend on order, threads or processes.

    Args:
        num_classes: Number of classes C, background (class 0) included.
        num_cases: Number of cases, identified by ``index``.
        unions: Named sets of classes; their probability is the sum over their classes.
        ignore_index: Label of ignored voxels.
        kwargs: Settings of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: Invalid unions, ``num_cases`` below 1, or ``ignore_index`` is a class.

    Example:
        >>> probs = torch.tensor([[[0.9, 0.3, 0.0], [0.1, 0.7, 1.0]]])
        >>> metric = CaseConfidence(2, num_cases=1)
        >>> where = {"index": torch.tensor([0]), "spacing": torch.ones(1, 1)}
        >>> metric.update(probs, torch.tensor([[0, 1, 1]]), **where)
        >>> round(float(metric.compute()[0, 1]), 4)  # 2 * (0.7 + 1) / (0.1 + 0.7 + 1 + 2)
        0.8947
    """

    higher_is_better = True

    probability: Tensor
    entropy: Tensor
    overlap: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        num_cases: int,
        unions: Mapping[str, Sequence[int]] | None = None,
        ignore_index: int = -100,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_classes, unions=unions, num_cases=num_cases, ignore_index=ignore_index, **kwargs
        )
        self.members = [*((k,) for k in range(num_classes)), *self.unions.values()]
        rows = (num_cases, len(self.members))
        states = {"probability": (*rows, 5), "entropy": (num_cases, 4), "overlap": (*rows, 2)}
        for name, shape in states.items():
            dtype = torch.float64 if name == "overlap" else torch.int64
            self.add_state(name, torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")
        self.add_settings_state(type(self).__name__)

    def update(
        self,
        probs: Tensor,
        target: Tensor,
        *,
        spacing: Tensor | None = None,
        index: Tensor | None = None,
        classes: Tensor | None = None,
        members: Sequence[Tensor] = (),
    ) -> None:
        """Add whole cases; an invalid batch changes nothing.

        Args:
            probs: Probabilities ``(N, C, *S)``.
            target: Labels ``(N, *S)`` or ``(N, 1, *S)``, for the ignored voxels alone.
            spacing: Voxel sizes ``(N, len(S))`` in mm.
            index: Case numbers ``(N,)``.
            classes: Predicted classes ``(N, *S)``; None for those of the highest probability.
            members: Predicted classes ``(N, *S)`` of each member of an ensemble.

        Raises:
            TypeError: Invalid dtypes of probabilities or labels.
            ValueError: Shapes do not match, spacing is missing, or an index is out of range.
        """
        labels = check_shapes(probs, target, self.num_classes)
        numbers = check_index(index, len(probs), self.num_cases) or []
        steps = check_spacing(spacing, labels.shape, "Distances to the predicted foreground")
        chosen = probs.max(dim=1).indices if classes is None else classes
        for n, (case, step) in enumerate(zip(numbers, steps, strict=True)):
            kept = labels[n] != self.ignore_index
            near = torch.from_numpy(dilated_mask(chosen[n].cpu().numpy(), step, NEAR_MM))
            maps = [chosen[n], kept, near.to(probs.device)]
            parts = [probs[n : n + 1], *(each[None, None] for each in maps)]
            for probability, entropy in count_pieces(parts, self.num_classes, self._count):
                self.probability[case] += probability.to(self.probability.device)
                self.entropy[case] += entropy.to(self.entropy.device)
            several = [torch.where(kept, each[n], -1) for each in members]
            for one, other in itertools.combinations(several, 2):
                self.overlap[case] += self._dice(one, other).to(self.overlap.device)

    def compute(self) -> Tensor:
        """Return the soft Dice confidence ``(cases, classes + unions)``, float64."""
        return torch.from_numpy(self.sums().soft_dice())

    def sums(self, case: int | None = None) -> ConfidenceSums:
        """Return the sums of each case, on one process after the states have been synced.

        Args:
            case: Number of the only case to return; None for all.
        """
        rows = slice(None) if case is None else slice(case, case + 1)
        total, pairs = self.overlap[rows].cpu().unbind(-1)
        agreement = (total / pairs).numpy() if bool((pairs > 0).any()) else None
        probability = self.probability[rows].double().cpu().numpy()
        probability[..., :4] /= FIXED_ONE
        entropy = self.entropy[rows].double().cpu().numpy()
        entropy[:, ::2] /= FIXED_ONE
        return ConfidenceSums(probability, entropy, agreement)

    def _count(self, pieces: Iterator[tuple[Tensor, ...]]) -> tuple[Tensor, Tensor]:
        """Return the sums of ``probability`` and ``entropy`` over pieces ``(C, L)``."""
        probability = torch.zeros(self.probability.shape[1:], dtype=torch.int64)
        entropy = torch.zeros(4, dtype=torch.int64)
        for scores, chosen, kept, near in pieces:
            probs = scores.double() * kept
            spread = to_fixed((probs * negative_log(probs.clamp_min(TINY))).sum(0))
            close = near[0] & kept[0]
            rows = [spread.sum(), kept.sum(), (spread * close).sum(), close.sum()]
            entropy += torch.stack(rows).cpu()
            unions = union_probs(probs, list(self.unions.values()))
            for place, (p, members) in enumerate(zip([*probs, *unions], self.members, strict=True)):
                mask = _mask(chosen[0], members) & kept[0]
                first, second = to_fixed(p), to_fixed(p * p)
                sums = [first * mask, first, second * mask, second, mask]
                probability[place] += torch.stack([each.sum() for each in sums]).cpu()
        return probability, entropy

    def _dice(self, one: Tensor, other: Tensor) -> Tensor:
        """Return for each structure the Dice of two label maps, and 1; 0 and 0 if it is in none."""
        found = []
        for members in self.members:
            a, b = _mask(one, members), _mask(other, members)
            size = a.sum() + b.sum()
            dice = 2 * (a & b).sum().double() / size.clamp_min(1)
            found.append(torch.stack([dice, (size > 0).double()]))
        return torch.stack(found)


def _mask(classes: Tensor, members: Sequence[int]) -> Tensor:
    """Return True where a class is one of a structure's."""
    mask = classes == members[0]
    for k in members[1:]:
        mask |= classes == k
    return mask
