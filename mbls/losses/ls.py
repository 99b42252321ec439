"""Label smoothing: a share of the target is spread evenly over the classes."""

from collections.abc import Sequence

from torch import Tensor

from mbls.losses._class_weights import ClassWeightedLoss
from mbls.losses._settings import check_within
from mbls.losses.ce import cross_entropy

__all__ = ["LabelSmoothingLoss"]


class LabelSmoothingLoss(ClassWeightedLoss):
    """Cross-entropy with the target ``(1 - alpha) q + alpha / C``, as PyTorch smooths.

    Formula: mean_v -(1 - alpha) log p_y - alpha mean_k log p_k
    Paper: Szegedy et al., CVPR 2016, arXiv:1512.00567; Mueller et al., NeurIPS 2019,
        arXiv:1906.02629

    The share is spread over all C classes. A share a spread over the C - 1 wrong ones alone, as
    some papers do, is ``alpha = a * C / (C - 1)`` here.

    Args:
        alpha: Share of the target that is spread, in [0, 1].
        weight: What each class counts, the background first, as PyTorch weights; None for 1.
        ignore_index: The label of voxels that take no part.
        validate: Refuse labels that are no class; the host then waits for the device.

    Example:
        >>> import torch
        >>> LabelSmoothingLoss(0.1)(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
        tensor(0.2269)
    """

    means = frozenset({"smoothed_ce"})

    def __init__(
        self,
        alpha: float = 0.1,
        *,
        weight: Sequence[float] | None = None,
        ignore_index: int = -100,
        validate: bool = False,
    ) -> None:
        super().__init__(weight, ignore_index=ignore_index, validate=validate)
        check_within("alpha", alpha, 0, 1)
        self.alpha = alpha

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"smoothed_ce": ...}``."""
        logits, target = self.prepare(logits, target)
        value = cross_entropy(
            logits,
            target,
            label_smoothing=self.alpha,
            weight=self.weight,
            ignore_index=self.ignore_index,
        )
        return {"smoothed_ce": value}
