"""Penalty on the distance from the uniform distribution."""

from typing import Any

from torch import Tensor

from mbls.losses._checks import check_at_least
from mbls.losses.penalty import PenaltyLoss

__all__ = ["UniformPenaltyLoss", "uniform_distance"]


def uniform_distance(logits: Tensor) -> Tensor:
    r"""Return :math:`\sum_k |p_k - 1 / C|`.

    Args:
        logits: Raw scores ``(N, C, *S)``.

    Returns:
        ``(N, *S)``, in [0, 2 - 2 / C].

    Example:
        >>> import torch
        >>> uniform_distance(torch.tensor([[100.0, 0.0, 0.0, 0.0]]))
        tensor([1.5000])
    """
    return (logits.softmax(dim=1) - 1 / logits.shape[1]).abs().sum(dim=1)


class UniformPenaltyLoss(PenaltyLoss):
    """A base loss plus the L1 distance from the uniform output; see :func:`uniform_distance`.

    Formula: CE + alpha * mean_v sum_k |p_k - 1 / C|
    Paper: none; a baseline of Liu et al., CVPR 2022, arXiv:2111.15430

    The published code divides by the number of images instead of voxels, so the penalty grows
    with the image; this is the mean over voxels.

    Args:
        alpha: Factor of the distance.
        **settings: base, ignore_index and validate, as :class:`PenaltyLoss` takes them.

    Example:
        >>> import torch
        >>> terms = UniformPenaltyLoss(0.1).terms(torch.tensor([[99.0, 0.0]]), torch.tensor([0]))
        >>> terms["uniform"]
        tensor(0.1000)
    """

    voxel_means = frozenset({"uniform"})
    soft_targets = True

    def __init__(self, alpha: float = 0.1, **settings: Any) -> None:
        super().__init__(**settings)
        check_at_least(0, alpha=alpha)
        self.alpha = alpha

    def penalty(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"uniform": ...}``."""
        return {"uniform": self.alpha * self.voxel_mean(uniform_distance(logits), target)}
