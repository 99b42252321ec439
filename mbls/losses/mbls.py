"""Margin-based label smoothing (MbLS): a hinge on the distances from the largest logit."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mbls.losses._pointwise import Chunk, Pointwise
from mbls.losses._settings import check_at_least, check_one_of
from mbls.losses.penalty import PenaltyLoss

__all__ = ["MarginLoss", "MarginTerm", "margin_penalty"]


def margin_penalty(logits: Tensor, margin: float, *, norm: Literal["l1", "l2"] = "l1") -> Tensor:
    r"""Average :math:`\max(0, \max_j l_j - l_k - m)`, or its square, over the classes.

    The winning class counts with zero. On exact ties the gradient of the maximum is shared.

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
    distance = logits.amax(dim=1, keepdim=True) - logits
    excess = (distance - margin).clamp_min(0)
    return (excess if norm == "l1" else excess.square()).mean(dim=1)


@dataclass(frozen=True)
class MarginTerm(Pointwise):
    """:func:`margin_penalty` on a chunk, with its gradient.

    Args:
        margin: Distance in logit units that goes unpunished.
        norm: ``"l1"`` for the hinge, ``"l2"`` for its square.
    """

    margin: float
    norm: Literal["l1", "l2"] = "l1"

    def plain(self, logits: Tensor, safe: Tensor) -> Tensor:
        """Return :func:`margin_penalty`; the labels do not matter."""
        return margin_penalty(logits, self.margin, norm=self.norm)

    def value(self, chunk: Chunk) -> Tensor:
        """Return the mean of the hinges, or of their squares, over the classes."""
        excess = chunk.kept[self] = self._excess(chunk)
        if self.norm == "l2":
            excess = torch.mul(excess, excess, out=chunk.buffer("products"))
        total = excess.sum(dim=1, keepdim=True)
        return total.mul_((-1 if self.norm == "l1" else 1) / chunk.logits.shape[1])

    def add_gradient(self, chunk: Chunk, weight: Tensor, gradient: Tensor) -> None:
        """Push every loser beyond the margin up, and the winner (tied: each a share) down."""
        excess = chunk.kept.pop(self, None)
        excess = self._excess(chunk) if excess is None else excess
        slope = excess.sign_() if self.norm == "l1" else excess.mul_(2)
        weight = weight / gradient.shape[1]
        total = slope.sum(dim=1, keepdim=True).mul_(weight)
        gradient.addcmul_(slope, weight)
        wins = torch.eq(chunk.behind, 0, out=chunk.buffer("work"))
        gradient.addcmul_(wins, total.div_(wins.sum(dim=1, keepdim=True)), value=-1)

    def _excess(self, chunk: Chunk) -> Tensor:
        """Return minus the hinges: a negative number beyond the margin, else 0."""
        work = chunk.buffer("work")
        return torch.clamp_max(chunk.behind, -self.margin, out=work).add_(self.margin)


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
        base: The loss below the penalty; None is cross-entropy.
        ignore_index: The label of voxels that take no part.
        validate: Refuse labels that are no class; the host then waits for the device.

    Example:
        >>> import torch
        >>> loss = MarginLoss(margin=5.0, alpha=0.1)
        >>> terms = loss.terms(torch.tensor([[9.0, 4.0, -3.0]]), torch.tensor([0]))
        >>> round(terms["margin"].item(), 4)
        0.2333
    """

    def __init__(
        self,
        margin: float = 10.0,
        *,
        alpha: float = 0.1,
        norm: Literal["l1", "l2"] = "l1",
        base: nn.Module | None = None,
        ignore_index: int = -100,
        validate: bool = False,
    ) -> None:
        super().__init__(base, ignore_index=ignore_index, validate=validate)
        check_at_least("margin", margin, 0)
        check_at_least("alpha", alpha, 0)
        check_one_of("norm", norm, ("l1", "l2"))
        self.margin = margin
        self.alpha = alpha
        self.norm: Literal["l1", "l2"] = norm

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the base's terms and ``"margin"``."""
        logits, target = self.prepare(logits, target)
        term = MarginTerm(self.margin, self.norm)
        return self.with_base(logits, target, "margin", self.alpha, term)
