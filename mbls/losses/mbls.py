"""Margin-based label smoothing (MbLS): a hinge on the distances from the largest logit."""

from typing import Any, Literal

from torch import Tensor
from torch.autograd import Function

from mbls.losses._checks import check_at_least, check_one_of
from mbls.losses.penalty import PenaltyLoss

__all__ = ["MarginLoss", "logit_distances", "margin_penalty"]


class _LogitDistances(Function):
    """``max_j z_j - z_k - m`` with a gradient that costs fewer passes than that of ``amax``."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, margin: float) -> Tensor:
        top = logits.amax(dim=1, keepdim=True)
        ctx.save_for_backward(logits, top)
        return (top - logits).sub_(margin)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        logits, top = ctx.saved_tensors
        wins = (logits == top).to(upstream.dtype)
        share = upstream.sum(dim=1, keepdim=True).div_(wins.sum(dim=1, keepdim=True))
        return wins.mul_(share).sub_(upstream), None


def logit_distances(logits: Tensor, margin: float = 0.0) -> Tensor:
    r"""Return :math:`\max_j z_j - z_k - m`; on exact ties the gradient of the maximum is shared.

    Args:
        logits: Raw scores ``(N, C, *S)``.
        margin: m, subtracted from each distance.

    Returns:
        ``(N, C, *S)``, at least ``-margin``, the winning class's.

    Example:
        >>> import torch
        >>> logit_distances(torch.tensor([[9.0, 4.0, -3.0]]))
        tensor([[ 0.,  5., 12.]])
    """
    distances: Tensor = _LogitDistances.apply(logits, margin)
    return distances


def margin_penalty(logits: Tensor, margin: float, *, norm: Literal["l1", "l2"] = "l1") -> Tensor:
    r"""Average :math:`\max(0, \max_j z_j - z_k - m)`, or its square, over the classes.

    The winning class counts with zero.

    Args:
        logits: Raw scores ``(N, C, *S)``, not probabilities.
        margin: Distance m >= 0, in logit units, that goes unpunished.
        norm: ``"l1"`` is the hinge, ``"l2"`` the squared hinge.

    Returns:
        A map ``(N, *S)``, zero where every distance fits in the margin.

    Example:
        >>> import torch
        >>> margin_penalty(torch.tensor([[9.0, 4.0, -3.0]]), margin=5.0)
        tensor([2.3333])
    """
    excess = logit_distances(logits, margin).relu()
    return (excess if norm == "l1" else excess.square()).mean(dim=1)


class MarginLoss(PenaltyLoss):
    """Cross-entropy plus a penalty on logit distances beyond a margin; see :func:`margin_penalty`.

    Formula: CE + alpha * mean_vk max(0, max_j z_j - z_k - margin)
    Paper: Liu et al., CVPR 2022, arXiv:2111.15430; Murugesan et al., MedIA 2023, arXiv:2209.09641

    The squared form is a hinge as well: distances inside the margin cost nothing. The published
    code squares first, so that they do; results with ``norm="l2"`` therefore differ from it.

    Args:
        margin: Distance in logit units that goes unpunished.
        alpha: Factor of the penalty.
        norm: ``"l1"`` for the hinge, ``"l2"`` for its square.
        **settings: base, ignore_index and validate, as :class:`PenaltyLoss` takes them.

    Example:
        >>> import torch
        >>> loss = MarginLoss(margin=5.0, alpha=0.1)
        >>> terms = loss.terms(torch.tensor([[9.0, 4.0, -3.0]]), torch.tensor([0]))
        >>> round(terms["margin"].item(), 4)
        0.2333
    """

    voxel_means = frozenset({"margin"})
    soft_targets = True

    def __init__(
        self,
        margin: float = 10.0,
        *,
        alpha: float = 0.1,
        norm: Literal["l1", "l2"] = "l1",
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_at_least(0, margin=margin, alpha=alpha)
        check_one_of(("l1", "l2"), norm=norm)
        self.margin = margin
        self.alpha = alpha
        self.norm: Literal["l1", "l2"] = norm

    def penalty(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"margin": ...}``."""
        hinge = margin_penalty(logits, self.margin, norm=self.norm)
        return {"margin": self.alpha * self.voxel_mean(hinge, target)}
