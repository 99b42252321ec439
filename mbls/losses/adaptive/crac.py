"""Class and region-adaptive constraints (CRaC), whose multipliers follow the validation."""

from typing import Any

from mbls.losses.adaptive.augmented_lagrangian import AugmentedLagrangianLoss, PenaltyName
from mbls.losses.adaptive.constraints import NeighborConstraint
from mbls.losses.adaptive.multipliers import Groups, Statistics

__all__ = ["RegionAdaptiveLoss"]


class RegionAdaptiveLoss(AugmentedLagrangianLoss):
    """Cross-entropy plus the logits' distance from the neighbors' class proportions (CRaC).

    Formula: CE + mean_vrk P(|tau_k - z_k|, lambda_rk, rho_rk), inside a structure m tau_k
    Paper: Murugesan et al., MICCAI 2024, arXiv:2403.12364

    Each class has a multiplier for boundary voxels, whose window has several labels, and one for
    inner voxels. See :class:`AugmentedLagrangianLoss` for the update. The published code averages
    each region's constraint over all voxels, so the multipliers of a small region hardly move
    (``statistics="all"``), and misses a part of the boundary through rounding; ours is exact. Works
    in any number of dimensions.

    Args:
        num_classes: C; None until it is bound.
        margin: The logit m of the label inside a structure.
        penalty: ``"phr"``, ``"p2"`` or ``"p3"``.
        rho_min: The least weight, and the first.
        groups: ``"region"``, or ``"class"`` for one multiplier a class.
        statistics: ``"region"``, ``"active"``, or ``"all"`` as published.
        **settings: The others but constraint, as :class:`AugmentedLagrangianLoss` takes them.

    Example:
        >>> import torch
        >>> loss = RegionAdaptiveLoss(2, margin=4.0)
        >>> loss.observe(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 0, 1]]))
        >>> loss.adapt()
        >>> loss.multipliers[1]  # inside: |4 - 0| for the label, |0 - 0| for the other
        tensor([4.0000e-01, 1.0000e-06], dtype=torch.float64)
    """

    soft_targets = False

    def __init__(
        self,
        num_classes: int | None = None,
        margin: float = 5.0,
        penalty: PenaltyName = "phr",
        *,
        rho_min: float = 0.1,
        groups: Groups = "region",
        statistics: Statistics = "region",
        **settings: Any,
    ) -> None:
        super().__init__(
            num_classes,
            NeighborConstraint(margin),
            penalty,
            rho_min=rho_min,
            groups=groups,
            statistics=statistics,
            **settings,
        )
