"""Margin-based label smoothing (MbLS): a hinge on the distances from the largest logit."""

from typing import Literal

from torch import Tensor, nn

from mbls.losses.masking import masked_mean
from mbls.losses.penalty import PenaltyLoss
from mbls.losses.settings import check_at_least, check_one_of

__all__ = ["MarginLoss", "margin_penalty"]


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
        self.norm = norm

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the base's terms and ``"margin"``."""
        logits, target = self.prepare(logits, target)
        keep = target != self.ignore_index
        penalty = masked_mean(margin_penalty(logits, self.margin, norm=self.norm), keep)
        return {**self.base_terms(logits, target), "margin": self.alpha * penalty}
