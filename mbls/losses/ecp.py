"""Confidence penalty (ECP): low entropy costs."""

from typing import Any

from torch import Tensor

from mbls.losses._checks import check_at_least
from mbls.losses.penalty import PenaltyLoss

__all__ = ["EntropyPenaltyLoss", "mean_entropy"]


def mean_entropy(logits: Tensor) -> Tensor:
    r"""Return :math:`-\frac{1}{C} \sum_k p_k \log p_k`, the entropy over the number of classes.

    Args:
        logits: Raw scores ``(N, C, *S)``.

    Returns:
        ``(N, *S)``, in [0, log(C) / C].

    Example:
        >>> import torch
        >>> mean_entropy(torch.zeros(1, 2))
        tensor([0.3466])
    """
    log_p = logits.log_softmax(dim=1)
    return -(log_p.exp() * log_p).mean(dim=1)


class EntropyPenaltyLoss(PenaltyLoss):
    """A base loss minus ``alpha`` times the entropy of the output; see :func:`mean_entropy`.

    Formula: CE - alpha * mean_vk -p_k log p_k
    Paper: Pereyra et al., 2017, arXiv:1701.06548

    The entropy is averaged over classes too, as the published segmentation runs do: against the
    paper, which sums, ``alpha`` counts 1 / C.

    Args:
        alpha: Factor of the entropy.
        **settings: base, ignore_index and validate, as :class:`PenaltyLoss` takes them.

    Example:
        >>> import torch
        >>> terms = EntropyPenaltyLoss(0.1).terms(torch.zeros(1, 2), torch.tensor([0]))
        >>> terms["entropy"]
        tensor(-0.0347)
    """

    voxel_means = frozenset({"entropy"})
    soft_targets = True

    def __init__(self, alpha: float = 0.1, **settings: Any) -> None:
        super().__init__(**settings)
        check_at_least(0, alpha=alpha)
        self.alpha = alpha

    def penalty(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"entropy": ...}``, which is not positive."""
        return {"entropy": -self.alpha * self.voxel_mean(mean_entropy(logits), target)}
