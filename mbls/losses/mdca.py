"""Penalty on the gap between mean confidence and frequency of each class (MDCA)."""

from typing import Any, Literal

from torch import Tensor

from mbls.losses._checks import check_at_least, check_one_of
from mbls.losses._masking import as_images, class_maps, image_mean, labeled
from mbls.losses.penalty import PenaltyLoss

__all__ = ["ClasswiseMeanCalibrationLoss", "classwise_gap"]


def classwise_gap(
    probs: Tensor,
    target: Tensor,
    *,
    scope: Literal["batch", "image"] = "batch",
    ignore_index: int = -100,
) -> Tensor:
    r"""Average :math:`|\overline{p_k} - \overline{q_k}|` over the classes.

    An absent class counts with its mean probability.

    Args:
        probs: Class probabilities ``(N, C, *S)``.
        target: Labels ``(N, *S)``, int64, or soft labels ``(N, C, *S)``, floating.
        scope: Means over the labeled voxels of the whole batch, or of each image, whose gaps are
            then averaged over images; ``(N, C)`` counts as one image.
        ignore_index: The label of voxels that take no part.

    Returns:
        A scalar; zero if no voxel is labeled.

    Example:
        >>> import torch
        >>> classwise_gap(torch.tensor([[0.8, 0.2], [0.6, 0.4]]), torch.tensor([0, 0]))
        tensor(0.3000)
    """
    probs, target = as_images(probs, target)
    keep, safe = labeled(target, ignore_index)
    gap = (probs.masked_fill(~keep.unsqueeze(1), 0) - class_maps(safe, keep, probs)).flatten(2)
    if scope == "batch":
        return (gap.sum(dim=(0, 2)) / keep.sum().clamp_min(1)).abs().mean()
    size = keep.flatten(1).sum(dim=1, keepdim=True).clamp_min(1)
    return image_mean((gap.sum(dim=2) / size).abs(), keep)


class ClasswiseMeanCalibrationLoss(PenaltyLoss):
    """A base loss plus the gap between mean probability and frequency of each class (MDCA).

    Formula: CE + beta * mean_k |mean_v p_k - mean_v q_k|
    Paper: Hebbalaguppe et al., CVPR 2022, arXiv:2203.13834

    Args:
        beta: Factor of the gap.
        scope: Means over the ``"batch"``, as published, or over each ``"image"``.
        **settings: base, ignore_index and validate, as :class:`PenaltyLoss` takes them.

    Example:
        >>> import torch
        >>> loss = ClasswiseMeanCalibrationLoss()
        >>> loss.terms(torch.zeros(2, 2), torch.tensor([0, 0]))["mdca"]
        tensor(0.5000)
    """

    soft_targets = True

    def __init__(
        self, beta: float = 1.0, *, scope: Literal["batch", "image"] = "batch", **settings: Any
    ) -> None:
        super().__init__(**settings)
        check_at_least(0, beta=beta)
        check_one_of(("batch", "image"), scope=scope)
        self.beta = beta
        self.scope: Literal["batch", "image"] = scope

    def penalty(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"mdca": ...}``."""
        gap = classwise_gap(
            logits.softmax(dim=1), target, scope=self.scope, ignore_index=self.ignore_index
        )
        return {"mdca": self.beta * gap}
