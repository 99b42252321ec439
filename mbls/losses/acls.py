"""Adaptive and conditional label smoothing (ACLS): the winner and the losers on their own."""

from typing import Any, Literal

from torch import Tensor

from mbls.losses._checks import check_at_least, check_one_of
from mbls.losses.penalty import PenaltyLoss

__all__ = ["AdaptiveConditionalSmoothingLoss", "loser_penalty", "winner_penalty"]


def winner_penalty(
    logits: Tensor, margin: float, *, positive: Literal["range", "raw"] = "range"
) -> Tensor:
    r"""Return :math:`\max(0, \max_j z_j - \min_k z_k - m)^2` at every voxel.

    On exact ties the gradient of the maximum is shared, and that of the minimum.

    Args:
        logits: Raw scores ``(N, C, *S)``.
        margin: m >= 0, in logit units.
        positive: ``"raw"`` leaves the minimum out, as the released code does: the value then
            depends on a constant added to all logits.

    Returns:
        ``(N, *S)``.

    Example:
        >>> import torch
        >>> winner_penalty(torch.tensor([[9.0, 4.0, -3.0]]), margin=10.0)
        tensor([4.])
    """
    height = logits.amax(dim=1)
    if positive == "range":
        height = height - logits.amin(dim=1)
    return (height - margin).clamp_min(0).square()


def loser_penalty(logits: Tensor, margin: float) -> Tensor:
    r"""Return :math:`\frac{1}{C - 1} \sum_k \max(0, \max_j z_j - z_k - m)^2` at every voxel.

    The maximum carries no gradient: only the losers are pulled up.

    Args:
        logits: Raw scores ``(N, C, *S)``.
        margin: m >= 0, in logit units.

    Returns:
        ``(N, *S)``.

    Example:
        >>> import torch
        >>> loser_penalty(torch.tensor([[9.0, 4.0, -3.0]]), margin=10.0)
        tensor([2.])
    """
    distance = logits.detach().amax(dim=1, keepdim=True) - logits
    return (distance - margin).clamp_min(0).square().sum(dim=1) / (logits.shape[1] - 1)


class AdaptiveConditionalSmoothingLoss(PenaltyLoss):
    """Cross-entropy plus squared hinges on the winner's and the losers' logits (ACLS).

    Formula: CE + alpha * mean_v [positive_weight * max(0, max_j z_j - min_k z_k - margin)^2
        + negative_weight / (C - 1) * sum_k max(0, sg(max_j z_j) - z_k - margin)^2]
    Paper: Park et al., ICCV 2023, arXiv:2308.11911

    See :func:`winner_penalty` and :func:`loser_penalty`; sg stops the gradient. The published
    margin of 10 is beyond the logits' range of most networks with few classes: there take 5 or 6.

    Args:
        alpha: Factor of both penalties.
        margin: Distance in logit units that goes unpunished.
        positive_weight: Weight of the winner's penalty.
        negative_weight: Weight of the losers' penalty.
        positive: ``"range"`` measures the winner from the smallest logit; ``"raw"`` from 0, as the
            released code, which depends on a constant added to all logits.
        **settings: base, ignore_index and validate, as :class:`PenaltyLoss` takes them.

    Example:
        >>> import torch
        >>> loss = AdaptiveConditionalSmoothingLoss()
        >>> terms = loss.terms(torch.tensor([[9.0, 4.0, -3.0]]), torch.tensor([0]))
        >>> terms["winner"], terms["losers"]
        (tensor(0.4000), tensor(0.0200))
    """

    voxel_means = frozenset({"winner", "losers"})
    soft_targets = True

    def __init__(
        self,
        alpha: float = 0.1,
        *,
        margin: float = 10.0,
        positive_weight: float = 1.0,
        negative_weight: float = 0.1,
        positive: Literal["range", "raw"] = "range",
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_at_least(0, alpha=alpha, margin=margin)
        check_at_least(0, positive_weight=positive_weight, negative_weight=negative_weight)
        check_one_of(("range", "raw"), positive=positive)
        self.alpha = alpha
        self.margin = margin
        self.positive_weight = positive_weight
        self.negative_weight = negative_weight
        self.positive: Literal["range", "raw"] = positive

    def penalty(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"winner": ..., "losers": ...}``."""
        winner = winner_penalty(logits, self.margin, positive=self.positive)
        losers = loser_penalty(logits, self.margin)
        return {
            "winner": self.alpha * self.positive_weight * self.voxel_mean(winner, target),
            "losers": self.alpha * self.negative_weight * self.voxel_mean(losers, target),
        }
