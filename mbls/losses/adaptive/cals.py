"""Class-adaptive label smoothing (CALS): a margin whose multipliers follow the validation."""

from torch import nn

from mbls.losses._neighborhood import Border
from mbls.losses.adaptive.augmented_lagrangian import AugmentedLagrangianLoss, PenaltyName
from mbls.losses.adaptive.constraints import MarginConstraint
from mbls.losses.adaptive.multipliers import Groups, Statistics

__all__ = ["ClassAdaptiveMarginLoss"]


class ClassAdaptiveMarginLoss(AugmentedLagrangianLoss):
    """Cross-entropy plus a margin on logit distances, its weight adapted for each class (CALS).

    Formula: CE + mean_vk P((max_j z_j - z_k - m) / m, lambda_k, rho_k), lambda, rho by validation
    Paper: Liu et al., CVPR 2023, arXiv:2211.15088

    See :class:`AugmentedLagrangianLoss` for the update. ``"all"``, as published, averages over
    voxels that the class wins as well, where its distance is 0: the more frequent a class, the
    further its constraint is from being met. ``statistics="active"`` leaves them out.

    Args:
        num_classes: C; None until it is bound.
        margin: Distance in logit units that is allowed.
        penalty: ``"phr"``, ``"p2"`` or ``"p3"``.
        normalize: Measure the excess in margins, not in logit units.
        lambda_min: The least multiplier, and the first.
        lambda_max: The largest multiplier.
        lambda_step: Validations from one change of lambda to the next.
        rho_min: The least weight, and the first.
        rho_max: The largest weight.
        rho_step: Validations from one change of rho to the next; -1 for none.
        gamma: What rho grows by.
        tau: The share of a violation that must be gone for rho to stay.
        groups: ``"class"``, or ``"region"`` for boundary and inner voxels apart.
        statistics: ``"all"``, ``"region"`` or ``"active"``.
        kernel_size: Odd width of the window that tells regions apart, in voxels.
        border: What lies outside the image: ``"replicate"`` or ``"background"``.
        base: The loss below the penalty; None is cross-entropy.
        ignore_index: The label of voxels that take no part.
        validate: Refuse labels that are no class; the host then waits for the device.

    Example:
        >>> loss = ClassAdaptiveMarginLoss(2, margin=4.0)
        >>> loss.observe(torch.tensor([[10.0, 0.0]]), torch.tensor([0]))
        >>> loss.adapt()
        >>> [round(multiplier, 4) for multiplier in loss.multipliers[0].tolist()]
        [0.0, 1.5]
    """

    def __init__(
        self,
        num_classes: int | None = None,
        margin: float = 10.0,
        penalty: PenaltyName = "phr",
        *,
        normalize: bool = True,
        lambda_min: float = 1e-6,
        lambda_max: float = 1e6,
        lambda_step: int = 1,
        rho_min: float = 1.0,
        rho_max: float = 10.0,
        rho_step: int = 10,
        gamma: float = 1.2,
        tau: float = 0.9,
        groups: Groups = "class",
        statistics: Statistics = "all",
        kernel_size: int = 3,
        border: Border = "replicate",
        base: nn.Module | None = None,
        ignore_index: int = -100,
        validate: bool = False,
    ) -> None:
        super().__init__(
            num_classes,
            MarginConstraint(margin, normalize=normalize),
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
