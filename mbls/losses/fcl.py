"""Focal calibration loss (FCL): focal loss plus the Brier score."""

from typing import Any

from torch import Tensor

from mbls.losses._checks import check_at_least
from mbls.losses._masking import labeled, masked_mean
from mbls.losses.base import Loss
from mbls.losses.brier import brier_map
from mbls.losses.focal import focal_map

__all__ = ["FocalCalibrationLoss"]


class FocalCalibrationLoss(Loss):
    """Focal loss plus ``alpha`` times the Brier score (FCL).

    Formula: mean_v -(1 - p_y)^gamma log p_y + alpha * sum_k (p_k - q_k)^2
    Paper: Liang et al., 2024, arXiv:2410.18321

    Args:
        gamma: Exponent of the focal loss, >= 0.
        alpha: Factor of the Brier score.
        **settings: ignore_index and validate, as :class:`Loss` takes them.

    Example:
        >>> import torch
        >>> FocalCalibrationLoss(2.0, alpha=1.0)(torch.zeros(1, 2), torch.tensor([1]))
        tensor(0.6733)
    """

    voxel_means = frozenset({"focal", "brier"})

    def __init__(self, gamma: float = 2.0, *, alpha: float = 1.0, **settings: Any) -> None:
        super().__init__(**settings)
        check_at_least(0, gamma=gamma, alpha=alpha)
        self.gamma = gamma
        self.alpha = alpha

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"focal": ..., "brier": ...}``."""
        logits, target = self.prepare(logits, target)
        keep, safe = labeled(target, self.ignore_index)
        focal = masked_mean(focal_map(logits, safe, self.gamma), keep)
        return {"focal": focal, "brier": self.alpha * masked_mean(brier_map(logits, safe), keep)}
