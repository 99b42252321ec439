"""Neighbor-aware calibration (NACL): logits near the class proportions of the neighbors."""

from typing import Any, Literal

from torch import Tensor

from mbls.losses._checks import check_above, check_at_least, check_count, check_one_of
from mbls.losses._neighborhood import Border, Kernel, Neighborhood
from mbls.losses.penalty import PenaltyLoss

__all__ = ["NeighborAwareLoss", "neighbor_distance"]


def neighbor_distance(
    scores: Tensor, proportions: Tensor, distance: Literal["l1", "l2"] = "l1"
) -> Tensor:
    r"""Average :math:`|\tau_k - u_k|`, or its square, over the classes.

    Args:
        scores: u, logits or probabilities ``(N, C, *S)``.
        proportions: tau ``(N, C, *S)``, no gradient.
        distance: ``"l1"`` or ``"l2"``.

    Returns:
        ``(N, *S)``.
    """
    gap = scores - proportions
    return (gap.abs() if distance == "l1" else gap.square()).mean(dim=1)


class NeighborAwareLoss(PenaltyLoss):
    """Cross-entropy plus the distance of logits from the neighbors' class proportions (NACL).

    Formula: CE + alpha * mean_vk |tau_k - z_k|, tau the class proportions in the window
    Paper: Murugesan et al., MICCAI 2023, arXiv:2303.06268; MedIA 2024, arXiv:2401.14487

    See :func:`mbls.losses.neighbor_proportions` for windows and borders. The published code
    counts what lies outside the image as background (``border="background"``); MONAI's
    ``NACLLoss`` counts it as nothing (``border="monai"``).

    Args:
        alpha: Factor of the penalty.
        kernel_size: Odd width of the window in voxels.
        kernel: ``"mean"`` or ``"gaussian"``, how the window is weighed.
        sigma: Standard deviation of the Gaussian in voxels.
        distance: ``"l1"`` or ``"l2"`` (squared).
        on: ``"logits"``, as published, or ``"probs"``.
        border: What lies outside the image: ``"replicate"``, ``"background"`` or ``"monai"``.
        **settings: base, ignore_index and validate, as :class:`PenaltyLoss` takes them.

    Example:
        >>> import torch
        >>> terms = NeighborAwareLoss(0.1).terms(torch.zeros(1, 2, 4), torch.zeros(1, 4))
        >>> terms["neighbors"]
        tensor(0.0500)
    """

    voxel_means = frozenset({"neighbors"})
    soft_targets = True

    def __init__(
        self,
        alpha: float = 0.1,
        *,
        kernel_size: int = 3,
        kernel: Kernel = "mean",
        sigma: float = 1.0,
        distance: Literal["l1", "l2"] = "l1",
        on: Literal["logits", "probs"] = "logits",
        border: Border = "replicate",
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_at_least(0, alpha=alpha)
        check_above(0, sigma=sigma)
        check_count(1, odd=True, kernel_size=kernel_size)
        check_one_of(("mean", "gaussian"), kernel=kernel)
        check_one_of(("l1", "l2"), distance=distance)
        check_one_of(("logits", "probs"), on=on)
        check_one_of(("replicate", "background", "monai"), border=border)
        self.alpha = alpha
        self.kernel_size = kernel_size
        self.kernel: Kernel = kernel
        self.sigma = sigma
        self.distance: Literal["l1", "l2"] = distance
        self.on = on
        self.border: Border = border

    def penalty(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"neighbors": ...}``."""
        scores = logits if self.on == "logits" else logits.softmax(dim=1)
        window = Neighborhood(
            self.kernel, self.kernel_size, self.sigma, self.border, self.ignore_index
        )
        shares = window.shares(target, logits.shape[1], logits.dtype)
        distance = neighbor_distance(scores, shares, self.distance)
        return {"neighbors": self.alpha * self.voxel_mean(distance, target)}
