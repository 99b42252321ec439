"""Cross-entropy, the base that most calibration losses add a penalty to."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mbls.losses._checks import check_within
from mbls.losses._class_weights import ClassWeightedLoss
from mbls.losses._masking import labeled, masked_mean

__all__ = ["CrossEntropyLoss", "cross_entropy"]


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
) -> Tensor:
    r"""Average :math:`-\log p_y` over the labeled voxels; zero without any.

    With ``label_smoothing`` a the target is :math:`t = (1 - a) q + a / C`, the uniform part spread
    over all C classes; soft labels are q. With ``weight`` w it is PyTorch's weighted mean,
    :math:`\sum_{vk} -w_k t_{vk} \log p_{vk} / \sum_{vk} w_k q_{vk}`.

    Args:
        logits: Raw scores ``(N, C, *S)``.
        target: Labels ``(N, *S)``, int64, or soft labels ``(N, C, *S)`` in the dtype of the logits.
        label_smoothing: a, in [0, 1].
        weight: w ``(C,)``, or None for 1.
        ignore_index: The label of voxels that take no part.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> cross_entropy(torch.zeros(1, 4), torch.tensor([2]))
        tensor(1.3863)
    """
    if target.is_floating_point():
        return _soft_cross_entropy(logits, target, label_smoothing, weight, ignore_index)
    on_cpu = logits.device.type == "cpu"  # its own sum is faster there, and on CUDA it has no
    total = F.cross_entropy(  # deterministic kernel; the map is 0 where a voxel is ignored
        logits,
        target,
        None if weight is None else weight.to(logits),
        reduction="sum" if on_cpu else "none",
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
    ).sum()
    if weight is None:
        return total / (target != ignore_index).sum().clamp_min(1)
    keep, safe = labeled(target, ignore_index)
    count = weight.to(logits)[safe].masked_fill(~keep, 0).sum()
    return total / count.where(count > 0, 1)


def _soft_cross_entropy(
    logits: Tensor, target: Tensor, smoothing: float, weight: Tensor | None, ignore_index: int
) -> Tensor:
    keep, soft = labeled(target, ignore_index)
    weight = None if weight is None else weight.to(logits)
    values = F.cross_entropy(logits, soft, weight, reduction="none", label_smoothing=smoothing)
    if weight is None:
        return masked_mean(values, keep)
    count = (soft * weight.view(-1, *[1] * (soft.ndim - 2))).sum()
    return torch.where(keep, values, 0).sum() / count.where(count > 0, 1)


class CrossEntropyLoss(ClassWeightedLoss):
    """Cross-entropy, averaged over the labeled voxels; see :func:`cross_entropy`.

    Formula: CE = mean_v -(1 - a) log p_y - a mean_k log p_k, a = label_smoothing
    Paper: Good, J. R. Stat. Soc. B 1952 (the logarithmic score); label smoothing: Szegedy et al.,
        CVPR 2016, arXiv:1512.00567; Mueller et al., NeurIPS 2019, arXiv:1906.02629

    The smoothed share is spread over all C classes. A share a spread over the C - 1 wrong ones
    alone, as some papers do, is ``label_smoothing = a * C / (C - 1)`` here.

    Args:
        label_smoothing: Share of the target that is spread evenly over all classes, in [0, 1].
        **settings: weight, ignore_index and validate, as :class:`ClassWeightedLoss` takes them.

    Example:
        >>> import torch
        >>> CrossEntropyLoss()(torch.zeros(2, 4, 3, 3), torch.zeros(2, 3, 3))
        tensor(1.3863)
    """

    voxel_means = frozenset({"ce"})
    soft_targets = True

    def __init__(self, label_smoothing: float = 0.0, **settings: Any) -> None:
        super().__init__(**settings)
        check_within(0, 1, label_smoothing=label_smoothing)
        self.label_smoothing = label_smoothing

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"ce": ...}``."""
        logits, target = self.prepare(logits, target)
        value = cross_entropy(
            logits,
            target,
            label_smoothing=self.label_smoothing,
            weight=self.weight,
            ignore_index=self.ignore_index,
        )
        return {"ce": value}
