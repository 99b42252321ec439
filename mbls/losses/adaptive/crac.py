"""Class and region-adaptive constraints (CRaC), whose multipliers follow the validation."""

from torch import nn

from mbls.losses._neighborhood import Border
from mbls.losses.adaptive.augmented_lagrangian import AugmentedLagrangianLoss, PenaltyName
from mbls.losses.adaptive.constraints import NeighbourConstraint
from mbls.losses.adaptive.multipliers import Groups, Statistics

__all__ = ["RegionAdaptiveLoss"]


class RegionAdaptiveLoss(AugmentedLagrangianLoss):
    """Cross-entropy plus the logits' distance from the neighbours' class proportions (CRaC).

    Formula: CE + mean_vrk P(|tau_k - z_k|, lambda_rk, rho_rk), inside a structure m tau_k
    Paper: Murugesan et al., MICCAI 2024, arXiv:2403.12364

    Each class has a multiplier for boundary voxels, whose window holds several labels, and one for
    inner voxels. See :class:`AugmentedLagrangianLoss` for the update. The published code averages
    each region's constraint over all voxels, so that a small region's multipliers hardly move
    (``statistics="all"``), and misses a part of the boundary through rounding; ours is exact. Works
    in any number of dimensions.

    Args:
        num_classes: C; None until it is bound.
        margin: The logit m of the label inside a structure.
        penalty: ``"phr"``, ``"p2"`` or ``"p3"``.
        lambda_min: The least multiplier, and the first.
        lambda_max: The largest multiplier.
        lambda_step: Validations from one change of lambda to the next.
        rho_min: The least weight, and the first.
        rho_max: The largest weight.
        rho_step: Validations from one change of rho to the next; -1 for none.
        gamma: What rho grows by.
        tau: The share of a violation that must be gone for rho to stay.
        groups: ``"region"``, or ``"class"`` for one multiplier a class.
        statistics: ``"region"``, ``"active"``, or ``"all"`` as published.
        kernel_size: Odd width of the window in voxels.
        border: What lies outside the image: ``"replicate"``, or ``"background"`` as published.
        base: The loss below the penalty; None is cross-entropy.
        ignore_index: The label of voxels that take no part.
        validate: Refuse labels that are no class; the host then waits for the device.

    Example:
        >>> loss = RegionAdaptiveLoss(2, margin=4.0)
        >>> loss.observe(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 0, 1]]))
        >>> loss.adapt()
        >>> loss.multipliers[1]  # inside: |4 - 0| for the label, |0 - 0| for the other
        tensor([4.0000e-01, 1.0000e-06], dtype=torch.float64)
    """

    def __init__(
        self,
        num_classes: int | None = None,
        margin: float = 5.0,
        penalty: PenaltyName = "phr",
        *,
        lambda_min: float = 1e-6,
        lambda_max: float = 1e6,
        lambda_step: int = 1,
        rho_min: float = 0.1,
        rho_max: float = 10.0,
        rho_step: int = 10,
        gamma: float = 1.2,
        tau: float = 0.9,
        groups: Groups = "region",
        statistics: Statistics = "region",
        kernel_size: int = 3,
        border: Border = "replicate",
        base: nn.Module | None = None,
        ignore_index: int = -100,
        validate: bool = False,
    ) -> None:
        super().__init__(
            num_classes,
            NeighbourConstraint(margin),
            penalty,
            lambda_min=lambda_min,
            lambda_max=lambda_max,
            lambda_step=lambda_step,
            rho_min=rho_min,
            rho_max=rho_max,
            rho_step=rho_step,
            gamma=gamma,
            tau=tau,
            groups=groups,
            statistics=statistics,
            kernel_size=kernel_size,
            border=border,
            base=base,
            ignore_index=ignore_index,
            validate=validate,
        )
