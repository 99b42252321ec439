"""The Brier score as a loss, alone and under a focal loss."""

from torch import Tensor

from mbls.losses.base import Loss
from mbls.losses.focal import focal_map
from mbls.losses.masking import labelled, masked_mean
from mbls.losses.settings import check_at_least

__all__ = ["BrierLoss", "FocalCalibrationLoss", "brier_map"]


def brier_map(logits: Tensor, safe: Tensor) -> Tensor:
    r"""Return :math:`\sum_k (p_k - q_k)^2` at every voxel.

    Args:
        logits: Raw scores ``(N, C, *S)``.
        safe: Labels ``(N, *S)`` in 0 .. C - 1.

    Returns:
        ``(N, *S)``, in [0, 2].

    Example:
        >>> import torch
        >>> brier_map(torch.zeros(1, 2), torch.tensor([1]))
        tensor([0.5000])
    """
    probs = logits.softmax(dim=1)
    hot = probs.new_zeros(probs.shape).scatter_(1, safe.unsqueeze(1), 1.0)
    return (probs - hot).square().sum(dim=1)


class BrierLoss(Loss):
    """The Brier score, summed over classes, mean over voxels; see :func:`brier_map`.

    Formula: mean_v sum_k (p_k - q_k)^2
    Paper: Brier, Monthly Weather Review 1950

    Args:
        ignore_index: The label of voxels that take no part.
        validate: Refuse labels that are no class; the host then waits for the device.

    Example:
        >>> import torch
        >>> BrierLoss()(torch.zeros(1, 2), torch.tensor([1]))
        tensor(0.5000)
    """

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"brier": ...}``."""
        logits, target = self.prepare(logits, target)
        keep, safe = labelled(target, self.ignore_index)
        return {"brier": masked_mean(brier_map(logits, safe), keep)}


class FocalCalibrationLoss(Loss):
    """Focal loss plus ``alpha`` times the Brier score (FCL).

    Formula: mean_v -(1 - p_y)^gamma log p_y + alpha * sum_k (p_k - q_k)^2
    Paper: Liang et al., 2024, arXiv:2410.18321

    Args:
        gamma: Exponent of the focal loss, >= 0.
        alpha: Factor of the Brier score.
        ignore_index: The label of voxels that take no part.
        validate: Refuse labels that are no class; the host then waits for the device.

    Example:
        >>> import torch
        >>> FocalCalibrationLoss(2.0, alpha=1.0)(torch.zeros(1, 2), torch.tensor([1]))
        tensor(0.6733)
    """

    def __init__(
        self,
        gamma: float = 2.0,
        *,
        alpha: float = 1.0,
        ignore_index: int = -100,
        validate: bool = False,
    ) -> None:
        super().__init__(ignore_index=ignore_index, validate=validate)
        check_at_least("gamma", gamma, 0)
        check_at_least("alpha", alpha, 0)
        self.gamma = gamma
        self.alpha = alpha

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"focal": ..., "brier": ...}``."""
        logits, target = self.prepare(logits, target)
        keep, safe = labelled(target, self.ignore_index)
        return {
            "focal": masked_mean(focal_map(logits, safe, self.gamma), keep),
            "brier": self.alpha * masked_mean(brier_map(logits, safe), keep),
        }
