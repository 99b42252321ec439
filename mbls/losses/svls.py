"""Spatially varying label smoothing (SVLS): targets mixed with those of the neighbors."""

from typing import Any

from torch import Tensor

from mbls.losses._checks import check_above, check_count
from mbls.losses._neighborhood import Neighborhood
from mbls.losses.base import Loss

__all__ = ["SpatialLabelSmoothingLoss", "soft_ce_map"]


def soft_ce_map(logits: Tensor, soft: Tensor) -> Tensor:
    r"""Return :math:`-\sum_k t_k \log p_k` at every voxel.

    Args:
        logits: Raw scores ``(N, C, *S)``.
        soft: Soft target t ``(N, C, *S)``, no gradient.

    Returns:
        ``(N, *S)``.
    """
    return -(soft * logits.log_softmax(dim=1)).sum(dim=1)


class SpatialLabelSmoothingLoss(Loss):
    """Cross-entropy against labels smoothed by their neighbors (SVLS).

    Formula: mean_v -sum_k t_k log p_k, t = 1/2 own label + 1/2 Gaussian share of the neighbors'
    Paper: Islam and Glocker, IPMI 2021, arXiv:2104.05788

    The border is replicated; ignored neighbors leave the window. See
    :func:`mbls.losses.neighbor_proportions`. Works in any number of dimensions; the published
    code has a wrong center for windows other than 3x3.

    Args:
        sigma: Standard deviation of the Gaussian in voxels.
        kernel_size: Odd width of the window in voxels.
        **settings: ignore_index and validate, as :class:`Loss` takes them.

    Example:
        >>> import torch
        >>> loss = SpatialLabelSmoothingLoss()
        >>> loss(torch.zeros(1, 2, 5), torch.tensor([[0, 0, 1, 1, 1]]))
        tensor(0.6931)
    """

    voxel_means = frozenset({"smoothed_ce"})
    soft_targets = True

    def __init__(self, sigma: float = 1.0, *, kernel_size: int = 3, **settings: Any) -> None:
        super().__init__(**settings)
        check_above(0, sigma=sigma)
        check_count(1, odd=True, kernel_size=kernel_size)
        self.sigma = sigma
        self.kernel_size = kernel_size

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"smoothed_ce": ...}``."""
        logits, target = self.prepare(logits, target)
        window = Neighborhood(
            "gaussian", self.kernel_size, self.sigma, ignore_index=self.ignore_index
        )
        soft = window.shares(target, logits.shape[1], logits.dtype)
        return {"smoothed_ce": self.voxel_mean(soft_ce_map(logits, soft), target)}
