"""Neighbor-aware calibration (NACL): logits near the class proportions of the neighbors."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from mbls.losses._masking import masked_mean
from mbls.losses._neighborhood import Border, Kernel, Neighbourhood
from mbls.losses._settings import check_above, check_at_least, check_count, check_one_of
from mbls.losses.penalty import PenaltyLoss

__all__ = ["NeighborAwareLoss", "neighbour_distance"]


def neighbour_distance(
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


def mean_neighbour_distance(
    scores: Tensor,
    target: Tensor,
    window: Neighbourhood,
    distance: Literal["l1", "l2"],
) -> Tensor:
    """Average :func:`neighbour_distance` over the labelled voxels."""
    keep = target != window.ignore_index
    if distance == "l2" or torch.compiler.is_compiling():
        shares = window.shares(target, scores.shape[1], scores.dtype)
        return masked_mean(neighbour_distance(scores, shares, distance), keep)
    with torch.no_grad():
        weight = _mean_weight(keep, scores.dtype).div_(scores.shape[1])
        slope = torch.empty_like(scores, memory_format=torch.contiguous_format)
        value = scores.new_zeros(())
        for images, some, shares in window.parts(target, scores.shape[1], scores.dtype):
            gap = torch.sub(scores[images, some], shares, out=shares)
            part = torch.sign(gap, out=slope[images, some]).mul_(weight[images])
            value += gap.mul_(part).sum()
    return _KnownSlope.apply(scores, value, slope)


class _KnownSlope(torch.autograd.Function):
    """Give a value that is linear in the scores the slope that was found along with it."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        return ctx.saved_tensors[0] * upstream, None, None


def _mean_weight(keep: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``(N, 1, *S)``, which sums to 1 over the kept voxels and is 0 elsewhere."""
    return (keep.to(dtype) / keep.sum().clamp_min(1)).unsqueeze(1)


class NeighborAwareLoss(PenaltyLoss):
    """Cross-entropy plus the distance of logits from the neighbours' class proportions (NACL).

    Formula: CE + alpha * mean_vk |tau_k - z_k|, tau the class proportions in the window
    Paper: Murugesan et al., MICCAI 2023, arXiv:2303.06268; MedIA 2024, arXiv:2401.14487

    See :func:`mbls.losses.neighbour_proportions` for windows and borders. The published code
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
        base: The loss below the penalty; None is cross-entropy.
        ignore_index: The label of voxels that take no part.
        validate: Refuse labels that are no class; the host then waits for the device.

    Example:
        >>> import torch
        >>> terms = NeighborAwareLoss(0.1).terms(torch.zeros(1, 2, 4), torch.zeros(1, 4))
        >>> terms["neighbours"]
        tensor(0.0500)
    """

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
        base: nn.Module | None = None,
        ignore_index: int = -100,
        validate: bool = False,
    ) -> None:
        super().__init__(base, ignore_index=ignore_index, validate=validate)
        check_at_least("alpha", alpha, 0)
        check_above("sigma", sigma, 0)
        check_count("kernel_size", kernel_size, 1, odd=True)
        check_one_of("kernel", kernel, ("mean", "gaussian"))
        check_one_of("distance", distance, ("l1", "l2"))
        check_one_of("on", on, ("logits", "probs"))
        check_one_of("border", border, ("replicate", "background", "monai"))
        self.alpha = alpha
        self.kernel_size = kernel_size
        self.kernel: Kernel = kernel
        self.sigma = sigma
        self.distance: Literal["l1", "l2"] = distance
        self.on = on
        self.border: Border = border

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the base's terms and ``"neighbours"``."""
        logits, target = self.prepare(logits, target)
        scores = logits if self.on == "logits" else logits.softmax(dim=1)
        window = Neighbourhood(
            self.kernel, self.kernel_size, self.sigma, self.border, self.ignore_index
        )
        penalty = mean_neighbour_distance(scores, target, window, self.distance)
        return {**self.base_terms(logits, target), "neighbours": self.alpha * penalty}
