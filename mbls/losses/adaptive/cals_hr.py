"""CALS with the heuristic rule: a class's margin weight grows while its penalty grows."""

from typing import Any

import torch
from torch import Tensor

from mbls.losses._checks import check_above, check_at_least, check_count, check_within
from mbls.losses.adaptive.constraints import MarginConstraint
from mbls.losses.adaptive.multipliers import MultiplierLoss, Observed
from mbls.losses.adaptive.penalty_functions import hinge

__all__ = ["HeuristicMarginLoss"]


class HeuristicMarginLoss(MultiplierLoss):
    """Cross-entropy plus a hinge on logit distances, its weight adapted by a rule (CALS-HR).

    Formula: CE + mean_vk lambda_k max(0, max_j z_j - z_k - margin), lambda adapted by validation
    Paper: Liu et al., CVPR 2023, arXiv:2211.15088

    A class's score is its mean penalty over the validation cases, lambda included. After validation
    e = 0, 1, .. of a run, if ``step`` divides e + 1 and the scores before were not all zero, lambda
    is multiplied by ``gamma`` where the score is more than ``tau`` times that before, and divided
    if it is less than the previous one by ``tau``.

    Args:
        num_classes: C; None until it is bound.
        margin: Distance in logit units that goes unpunished.
        alpha: Every class's lambda at the start, within its limits: from 0 it would never move.
        gamma: What lambda is multiplied or divided by.
        tau: How much a score must change.
        step: Validations from one change to the next.
        lambda_min: The least lambda.
        lambda_max: The largest lambda; a warning says when one reaches it.
        **settings: groups, statistics, kernel_size and border, as :class:`MultiplierLoss` takes
            them; base, ignore_index and validate, as :class:`PenaltyLoss` does.

    Example:
        >>> loss = HeuristicMarginLoss(2, margin=4.0)
        >>> for distance in (6.0, 8.0):
        ...     loss.observe(torch.tensor([[distance, 0.0]]), torch.tensor([0]))
        ...     loss.adapt()
        >>> [round(multiplier, 4) for multiplier in loss.multipliers[0].tolist()]
        [0.1, 0.11]
    """

    def __init__(
        self,
        num_classes: int | None = None,
        margin: float = 10.0,
        *,
        alpha: float = 0.1,
        gamma: float = 1.1,
        tau: float = 1.1,
        step: int = 1,
        lambda_min: float = 1e-6,
        lambda_max: float = 1e6,
        **settings: Any,
    ) -> None:
        super().__init__(
            num_classes,
            MarginConstraint(margin, normalize=False),
            hinge,
            start=alpha,
            limits=(lambda_min, lambda_max),
            weight=1.0,
            **settings,
        )
        check_within(lambda_min, lambda_max, alpha=alpha)
        check_above(1, gamma=gamma)
        check_at_least(1, tau=tau)
        check_count(1, step=step)
        self.gamma, self.tau, self.step = gamma, tau, step

    def statistic(self, h: Tensor, multiplier: Tensor, weight: Tensor) -> Tensor:
        """Return the penalty."""
        return self.penalty_function(h, multiplier, weight)[0]

    def move(self, observed: Observed) -> None:
        """Multiply or divide lambda by gamma where the score has grown or shrunk."""
        score, before = observed.statistic, self.previous
        if (int(self.epochs) + 1) % self.step == 0:
            grows, shrinks = score > self.tau * before, score < before / self.tau
            factor = torch.ones_like(score).masked_fill(grows, self.gamma)
            factor = factor.masked_fill(shrinks, 1 / self.gamma)
            moves = observed.present & (before != 0).any()
            moved = (self.multipliers * factor).clamp(*self.limits)
            self.multipliers.copy_(torch.where(moves, moved, self.multipliers))
        self.previous.copy_(torch.where(observed.present, score, before))
