"""Cross-entropy, the base that most calibration losses add a penalty to."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from mbls.losses._class_weights import ClassWeightedLoss
from mbls.losses._masking import labelled
from mbls.losses._pointwise import Chunk, Pointwise
from mbls.losses._settings import check_within

__all__ = ["CrossEntropyLoss", "CrossEntropyTerm", "cross_entropy"]


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
) -> Tensor:
    r"""Average :math:`-\log p_y` over the labelled voxels; zero where there is none.

    With ``label_smoothing`` a the target is :math:`t = (1 - a) q + a / C`, the uniform part spread
    over all C classes. With ``weight`` w it is PyTorch's weighted mean,
    :math:`\sum_{vk} -w_k t_{vk} \log p_{vk} / \sum_v w_{y_v}`.

    Args:
        logits: Raw scores ``(N, C, *S)``.
        target: Labels ``(N, *S)``, int64.
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
    keep, safe = labelled(target, ignore_index)
    count = weight.to(logits)[safe].masked_fill(~keep, 0).sum()
    return total / count.where(count > 0, 1)


@dataclass(frozen=True)
class CrossEntropyTerm(Pointwise):
    """Cross-entropy on a chunk, for the losses that share a pass with it.

    Args:
        label_smoothing: Share of the target that is spread evenly over all classes.
    """

    label_smoothing: float = 0.0

    def plain(self, logits: Tensor, safe: Tensor) -> Tensor:
        """Return PyTorch's cross-entropy map."""
        return F.cross_entropy(logits, safe, reduction="none", label_smoothing=self.label_smoothing)

    def value(self, chunk: Chunk) -> Tensor:
        """Return ``-(1 - a) log p_y - a mean_k log p_k``."""
        share = self.label_smoothing
        value = chunk.label_log_probs * (share - 1)
        if share:
            value -= share * (chunk.behind.mean(dim=1, keepdim=True) - chunk.log_total)
        return value

    def add_gradient(self, chunk: Chunk, weight: Tensor, gradient: Tensor) -> None:
        """Add ``p - (1 - a) q - a / C``."""
        share = self.label_smoothing
        gradient.addcmul_(chunk.exps, weight / chunk.total)
        gradient.scatter_add_(1, chunk.label, weight * (share - 1))
        if share:
            gradient.sub_(weight, alpha=share / gradient.shape[1])


class CrossEntropyLoss(ClassWeightedLoss):
    """Cross-entropy, averaged over the labelled voxels; see :func:`cross_entropy`.

    Formula: CE = mean_v -log p_y
    Paper: Good, J. R. Stat. Soc. B 1952 (the logarithmic score)

    Args:
        label_smoothing: Share of the target that is spread evenly over all classes.
        weight: What each class counts, the background first, as PyTorch weights; None for 1.
        ignore_index: The label of voxels that take no part.
        validate: Refuse labels that are no class; the host then waits for the device.

    Example:
        >>> import torch
        >>> CrossEntropyLoss()(torch.zeros(2, 4, 3, 3), torch.zeros(2, 3, 3))
        tensor(1.3863)
    """

    means = frozenset({"ce"})

    def __init__(
        self,
        label_smoothing: float = 0.0,
        *,
        weight: Sequence[float] | None = None,
        ignore_index: int = -100,
        validate: bool = False,
    ) -> None:
        super().__init__(weight, ignore_index=ignore_index, validate=validate)
        check_within("label_smoothing", label_smoothing, 0, 1)
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
