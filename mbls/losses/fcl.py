"""Focal calibration loss (FCL): focal loss plus the Brier score."""

from torch import Tensor

from mbls.losses._pointwise import pointwise_means
from mbls.losses._settings import check_at_least
from mbls.losses.base import Loss
from mbls.losses.brier import BrierTerm
from mbls.losses.focal import FocalTerm

__all__ = ["FocalCalibrationLoss"]


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
        focal, brier = pointwise_means(
            logits,
            target,
            [FocalTerm(self.gamma), BrierTerm()],
            factors=(1.0, self.alpha),
            ignore_index=self.ignore_index,
        )
        return {"focal": focal, "brier": brier}
