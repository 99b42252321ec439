"""Penalty on the gap between mean confidence and accuracy (DCA)."""

from typing import Any

from torch import Tensor

from mbls.losses._checks import check_at_least
from mbls.losses._masking import masked_mean
from mbls.losses.penalty import PenaltyLoss

__all__ = ["AccuracyConfidenceLoss", "accuracy_gap"]


def accuracy_gap(probs: Tensor, target: Tensor, *, ignore_index: int = -100) -> Tensor:
    r"""Return :math:`|\overline{\max_k p_k} - \mathrm{accuracy}|`; the accuracy has no gradient.

    Args:
        probs: Class probabilities ``(N, C, *S)``.
        target: Labels ``(N, *S)``, int64.
        ignore_index: The label of voxels that take no part.

    Returns:
        A scalar; zero if no voxel is labeled.

    Example:
        >>> import torch
        >>> accuracy_gap(torch.tensor([[0.8, 0.2], [0.6, 0.4]]), torch.tensor([0, 1]))
        tensor(0.2000)
    """
    confidence, winner = probs.max(dim=1)
    gap = confidence - (winner == target).to(probs.dtype)
    return masked_mean(gap, target != ignore_index).abs()


class AccuracyConfidenceLoss(PenaltyLoss):
    """A base loss plus the gap between mean confidence and accuracy (DCA).

    Formula: CE + beta * |mean_v max_k p_k - accuracy|
    Paper: Liang et al., BMVC 2020, arXiv:2009.04057

    Args:
        beta: Factor of the gap.
        **settings: base, ignore_index and validate, as :class:`PenaltyLoss` takes them.

    Example:
        >>> import torch
        >>> loss = AccuracyConfidenceLoss()
        >>> loss.terms(torch.zeros(2, 2), torch.tensor([0, 0]))["dca"]
        tensor(5.)
    """

    def __init__(self, beta: float = 10.0, **settings: Any) -> None:
        super().__init__(**settings)
        check_at_least(0, beta=beta)
        self.beta = beta

    def penalty(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"dca": ...}``."""
        gap = accuracy_gap(logits.softmax(dim=1), target, ignore_index=self.ignore_index)
        return {"dca": self.beta * gap}
