"""Class-adaptive label smoothing (CALS): a margin whose multipliers follow the validation."""

from typing import Any

from mbls.losses.adaptive.augmented_lagrangian import AugmentedLagrangianLoss, PenaltyName
from mbls.losses.adaptive.constraints import MarginConstraint

__all__ = ["ClassAdaptiveMarginLoss"]


class ClassAdaptiveMarginLoss(AugmentedLagrangianLoss):
    """Cross-entropy plus a margin on logit distances, its weight adapted for each class (CALS).

    Formula: CE + mean_vk P((max_j z_j - z_k - m) / m, lambda_k, rho_k), lambda, rho by validation
    Paper: Liu et al., CVPR 2023, arXiv:2211.15088

    See :class:`AugmentedLagrangianLoss` for the update. ``statistics="all"``, as published,
    averages over voxels that the class wins as well, where its distance is 0: the more frequent a
    class, the further its constraint is from being met. ``"active"`` leaves them out.

    Args:
        num_classes: C; None until it is bound.
        margin: Distance in logit units that is allowed.
        penalty: ``"phr"``, ``"p2"`` or ``"p3"``.
        normalize: Measure the excess in margins, not in logit units.
        **settings: All but constraint, as :class:`AugmentedLagrangianLoss` takes them.

    Example:
        >>> import torch
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
        **settings: Any,
    ) -> None:
        constraint = MarginConstraint(margin, normalize=normalize)
        super().__init__(num_classes, constraint, penalty, **settings)
