"""Augmented Lagrangians of any constraint, with multipliers per class or region."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from mbls.losses._checks import check_above, check_count, check_one_of, check_within
from mbls.losses.adaptive.constraints import Constraint, MarginConstraint
from mbls.losses.adaptive.multipliers import MultiplierLoss, Observed
from mbls.losses.adaptive.penalty_functions import PENALTIES

__all__ = ["AugmentedLagrangianLoss"]

PenaltyName = Literal["phr", "p2", "p3"]


class AugmentedLagrangianLoss(MultiplierLoss):
    r"""Cross-entropy plus an augmented Lagrangian of any constraint, by class or class and region.

    Formula: CE + mean_vk P(h_k, lambda_k, rho_k), lambda and rho adapted after each validation
    Paper: Liu et al., CVPR 2023, arXiv:2211.15088; Murugesan et al., MICCAI 2024, arXiv:2403.12364

    With regions the mean goes over twice as many entries, those of the other region being zero.
    After validation e = 0, 1, .. of a run, with the means of each group over the validation cases:

    1. lambda becomes the mean of P', cut to its limits at each voxel, if ``lambda_step`` divides
       e + 1;
    2. rho grows by ``gamma`` where the mean of h is more than ``tau`` times that of the validation
       before, or than 0, if ``rho_step`` divides e + 1.

    A group without a voxel keeps what it has. Results are published with the validation split that
    also chooses the checkpoint.

    Another combination is a few lines of a ``LOSS=file.yaml``, here margins for each region::

        model:
          loss:
            class_path: mbls.losses.AugmentedLagrangianLoss
            init_args:
              constraint: {class_path: mbls.losses.MarginConstraint, init_args: {margin: 5.0}}
              groups: region
              statistics: region

    Args:
        num_classes: C; None until it is bound.
        constraint: :class:`~mbls.losses.MarginConstraint` or
            :class:`~mbls.losses.NeighborConstraint`, or another one.
        penalty: ``"phr"``, ``"p2"`` or ``"p3"``; see :mod:`mbls.losses.adaptive.penalty_functions`.
        lambda_min: The least multiplier, and the first.
        lambda_max: The largest multiplier, and derivative at a voxel; a warning says which group
            it bounds.
        lambda_step: Validations from one change of lambda to the next.
        rho_min: The least weight, and the first.
        rho_max: The largest weight.
        rho_step: Validations from one change of rho to the next; -1 for none.
        gamma: What rho grows by.
        tau: The share of a violation that must be gone for rho to stay.
        **settings: groups, statistics, kernel_size and border, as :class:`MultiplierLoss` takes
            them; base, ignore_index and validate, as :class:`PenaltyLoss` does.

    Example:
        >>> loss = AugmentedLagrangianLoss(2, MarginConstraint(4.0), groups="region")
        >>> loss.observe(torch.tensor([[[0.0, 0.0, 0.0], [6.0, 6.0, 0.0]]]), torch.ones(1, 3))
        >>> loss.adapt()
        >>> loss.multipliers  # all voxels are inner
        tensor([[1.0000e-06, 1.0000e-06],
                [3.3333e-01, 1.0000e-06]], dtype=torch.float64)
    """

    def __init__(
        self,
        num_classes: int | None = None,
        constraint: Constraint | None = None,
        penalty: PenaltyName = "phr",
        *,
        lambda_min: float = 1e-6,
        lambda_max: float = 1e6,
        lambda_step: int = 1,
        rho_min: float = 1.0,
        rho_max: float = 10.0,
        rho_step: int = 10,
        gamma: float = 1.2,
        tau: float = 0.9,
        **settings: Any,
    ) -> None:
        check_one_of(tuple(PENALTIES), penalty=penalty)
        check_above(0, rho_min=rho_min)
        super().__init__(
            num_classes,
            MarginConstraint() if constraint is None else constraint,
            PENALTIES[penalty],
            start=lambda_min,
            limits=(lambda_min, lambda_max),
            weight=rho_min,
            **settings,
        )
        check_count(1, lambda_step=lambda_step)
        if rho_step < 1 and rho_step != -1:
            raise ValueError(f"rho_step must be >= 1, or -1 for never, got {rho_step}.")
        if rho_max < rho_min:
            raise ValueError(f"rho_max must be >= rho_min={rho_min:g}, got {rho_max:g}.")
        check_above(1, gamma=gamma)
        check_within(0, 1, tau=tau)
        self.lambda_step = lambda_step
        self.rho_min, self.rho_max, self.rho_step = rho_min, rho_max, rho_step
        self.gamma, self.tau = gamma, tau

    def statistic(self, h: Tensor, multiplier: Tensor, weight: Tensor) -> Tensor:
        """Return the penalty's derivative, cut to the multipliers' limits."""
        return self.penalty_function(h, multiplier, weight)[1].clamp(*self.limits)

    @property
    def ceiling(self) -> float:
        """Upper limit of the derivative at a voxel."""
        return self.limits[1]

    def move(self, observed: Observed) -> None:
        """Set lambda to the mean derivative, and raise rho where the violation has not shrunk."""
        now = int(self.epochs) + 1
        if now % self.lambda_step == 0:
            found = observed.statistic.clamp(*self.limits)
            self.multipliers.copy_(torch.where(observed.present, found, self.multipliers))
        if self.rho_step > 0 and now % self.rho_step == 0:
            stays = observed.constraint > self.tau * self.previous.clamp_min(0)
            grows = stays & observed.present & (self.seen > 0)
            more = (self.weights * self.gamma).clamp(self.rho_min, self.rho_max)
            self.weights.copy_(torch.where(grows, more, self.weights))
        self.previous.copy_(torch.where(observed.present, observed.constraint, self.previous))

    def tracked(self, class_keys: Sequence[str]) -> dict[str, Tensor]:
        """Return ``lambda/<class>`` and ``rho/<class>``, with regions ``../<region>``."""
        return super().tracked(class_keys) | self.by_class("rho", self.weights, class_keys)
