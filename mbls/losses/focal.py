"""Focal losses: cross-entropy weighted by how far the label's probability is from 1."""

from torch import Tensor

from mbls.losses.base import Loss
from mbls.losses.masking import labelled, masked_mean
from mbls.losses.powers import label_log_probs, power
from mbls.losses.settings import check_at_least

__all__ = ["AdaptiveFocalLoss", "FocalLoss", "adaptive_exponents", "focal_map"]


def focal_map(logits: Tensor, safe: Tensor, gamma: float) -> Tensor:
    r"""Return :math:`-(1 - p_y)^\gamma \log p_y` at every voxel.

    Args:
        logits: Raw scores ``(N, C, *S)``.
        safe: Labels ``(N, *S)`` in 0 .. C - 1.
        gamma: Exponent >= 0; 0 is cross-entropy.

    Returns:
        ``(N, *S)``.

    Example:
        >>> import torch
        >>> focal_map(torch.zeros(1, 2), torch.tensor([1]), gamma=2.0)
        tensor([0.1733])
    """
    log_p = label_log_probs(logits, safe)
    if gamma == 0:
        return -log_p
    return -power(-log_p.expm1(), gamma) * log_p


class FocalLoss(Loss):
    """Focal loss, mean over the labelled voxels; see :func:`focal_map`.

    Formula: mean_v -(1 - p_y)^gamma log p_y
    Paper: Lin et al., ICCV 2017, arXiv:1708.02002

    Args:
        gamma: Exponent >= 0; 0 is cross-entropy.
        ignore_index: The label of voxels that take no part.
        validate: Refuse labels that are no class; the host then waits for the device.

    Example:
        >>> import torch
        >>> FocalLoss(2.0)(torch.zeros(1, 2), torch.tensor([1]))
        tensor(0.1733)
    """

    def __init__(
        self, gamma: float = 3.0, *, ignore_index: int = -100, validate: bool = False
    ) -> None:
        super().__init__(ignore_index=ignore_index, validate=validate)
        check_at_least("gamma", gamma, 0)
        self.gamma = gamma

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"focal": ...}``."""
        logits, target = self.prepare(logits, target)
        keep, safe = labelled(target, self.ignore_index)
        return {"focal": masked_mean(focal_map(logits, safe, self.gamma), keep)}


def adaptive_exponents(label_probs: Tensor, gamma: float) -> Tensor:
    """Return FLSD-53's exponents: 5 below 0.2, 3 below 0.5, ``gamma`` from 0.5 on; no gradient.

    Args:
        label_probs: p_y, any shape.
        gamma: The exponent from 0.5 on.

    Example:
        >>> import torch
        >>> adaptive_exponents(torch.tensor([0.1, 0.2, 0.5]), gamma=2.0)
        tensor([5., 3., 2.])
    """
    p = label_probs.detach()
    exponents = p.new_full(p.shape, gamma)
    return exponents.masked_fill(p < 0.5, 3.0).masked_fill(p < 0.2, 5.0)


class AdaptiveFocalLoss(Loss):
    """Focal loss whose exponent follows the label's probability; see :func:`adaptive_exponents`.

    Formula: mean_v -(1 - p_y)^g log p_y; g = 5 if p_y < 0.2, 3 if p_y < 0.5, else gamma (FLSD-53)
    Paper: Mukhoti et al., NeurIPS 2020, arXiv:2002.09437

    Args:
        gamma: Exponent >= 0 where the label's probability is 0.5 or more.
        ignore_index: The label of voxels that take no part.
        validate: Refuse labels that are no class; the host then waits for the device.

    Example:
        >>> import torch
        >>> AdaptiveFocalLoss(2.0)(torch.zeros(1, 2), torch.tensor([1]))
        tensor(0.1733)
    """

    def __init__(
        self, gamma: float = 3.0, *, ignore_index: int = -100, validate: bool = False
    ) -> None:
        super().__init__(ignore_index=ignore_index, validate=validate)
        check_at_least("gamma", gamma, 0)
        self.gamma = gamma

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"focal": ...}``."""
        logits, target = self.prepare(logits, target)
        keep, safe = labelled(target, self.ignore_index)
        log_p = label_log_probs(logits, safe)
        exponents = adaptive_exponents(log_p.exp(), self.gamma)
        return {"focal": masked_mean(-power(-log_p.expm1(), exponents) * log_p, keep)}
