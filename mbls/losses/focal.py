"""Focal losses: cross-entropy weighted by how far the label's probability is from 1."""

from typing import Any

from torch import Tensor

from mbls.losses._checks import check_at_least
from mbls.losses._class_weights import ClassWeightedLoss, weighted_mean
from mbls.losses._masking import label_log_probs, labeled, masked_mean, power

__all__ = ["AdaptiveFocalLoss", "FocalLoss", "adaptive_exponents", "focal_map"]


def focal_map(logits: Tensor, safe: Tensor, gamma: float, *, adaptive: bool = False) -> Tensor:
    r"""Return :math:`-(1 - p_y)^\gamma \log p_y` at every voxel.

    Args:
        logits: Raw scores ``(N, C, *S)``.
        safe: Labels ``(N, *S)`` in 0 .. C - 1.
        gamma: Exponent >= 0; 0 is cross-entropy.
        adaptive: Take the exponents of :func:`adaptive_exponents`.

    Returns:
        ``(N, *S)``.

    Example:
        >>> import torch
        >>> focal_map(torch.zeros(1, 2), torch.tensor([1]), gamma=2.0)
        tensor([0.1733])
    """
    log_p = label_log_probs(logits, safe)
    if gamma == 0 and not adaptive:
        return -log_p
    exponents = adaptive_exponents(log_p.exp(), gamma) if adaptive else gamma
    return -power(-log_p.expm1(), exponents) * log_p


def adaptive_exponents(label_probs: Tensor, gamma: float) -> Tensor:
    """Return FLSD-53's exponents: 5 below 0.2, 3 below 0.5, ``gamma`` from 0.5 on; no gradient.

    Args:
        label_probs: p_y, any shape.
        gamma: The exponent from 0.5 on.

    Returns:
        The exponents, of the same shape.

    Example:
        >>> import torch
        >>> adaptive_exponents(torch.tensor([0.1, 0.2, 0.5]), gamma=2.0)
        tensor([5., 3., 2.])
    """
    p = label_probs.detach()
    exponents = p.new_full(p.shape, gamma)
    return exponents.masked_fill(p < 0.5, 3.0).masked_fill(p < 0.2, 5.0)


class FocalLoss(ClassWeightedLoss):
    """Focal loss, mean over the labeled voxels; see :func:`focal_map`.

    Formula: mean_v -(1 - p_y)^gamma log p_y
    Paper: Lin et al., ICCV 2017, arXiv:1708.02002

    With ``weight`` w it is ``sum_v -w_y (1 - p_y)^gamma log p_y / sum_v w_y``, so gamma 0 is
    weighted cross-entropy; the paper's alpha is w up to that denominator.

    Args:
        gamma: Exponent >= 0; 0 is cross-entropy.
        **settings: weight, ignore_index and validate, as :class:`ClassWeightedLoss` takes them.

    Example:
        >>> import torch
        >>> FocalLoss(2.0)(torch.zeros(1, 2), torch.tensor([1]))
        tensor(0.1733)
    """

    voxel_means = frozenset({"focal"})
    adaptive_gamma = False

    def __init__(self, gamma: float = 3.0, **settings: Any) -> None:
        super().__init__(**settings)
        check_at_least(0, gamma=gamma)
        self.gamma = gamma

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"focal": ...}``."""
        logits, target = self.prepare(logits, target)
        keep, safe = labeled(target, self.ignore_index)
        values = focal_map(logits, safe, self.gamma, adaptive=self.adaptive_gamma)
        if self.weight is None:
            return {"focal": masked_mean(values, keep)}
        return {"focal": weighted_mean(values, safe, keep, self.weight)}


class AdaptiveFocalLoss(FocalLoss):
    """Focal loss whose exponent follows the label's probability; see :func:`adaptive_exponents`.

    Formula: mean_v -(1 - p_y)^g log p_y; g = 5 if p_y < 0.2, 3 if p_y < 0.5, else gamma (FLSD-53)
    Paper: Mukhoti et al., NeurIPS 2020, arXiv:2002.09437

    Args:
        gamma: Exponent >= 0 where the label's probability is 0.5 or more.
        **settings: weight, ignore_index and validate, as :class:`ClassWeightedLoss` takes them.

    Example:
        >>> import torch
        >>> AdaptiveFocalLoss(2.0)(torch.zeros(1, 2), torch.tensor([1]))
        tensor(0.1733)
    """

    adaptive_gamma = True
