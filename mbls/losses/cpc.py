"""Pairwise constraints (CPC): the label against each class, and the others against each other."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mbls.losses._checks import check_at_least
from mbls.losses._masking import labeled, masked_mean
from mbls.losses.penalty import PenaltyLoss

__all__ = ["PairwiseConstraintLoss", "discrimination_map", "exclusion_map"]


def discrimination_map(logits: Tensor, safe: Tensor) -> Tensor:
    r"""Return :math:`\frac{1}{C - 1} \sum_{k \ne y} -\log \sigma(z_y - z_k)` at every voxel.

    Args:
        logits: Raw scores ``(N, C, *S)``.
        safe: Labels ``(N, *S)`` in 0 .. C - 1.

    Returns:
        ``(N, *S)``.

    Example:
        >>> discrimination_map(torch.zeros(1, 3), torch.tensor([1]))
        tensor([0.6931])
    """
    own = logits.gather(1, safe.unsqueeze(1))
    each = F.softplus(logits - own)  # the label's own pair adds log 2
    return (each.sum(dim=1) - math.log(2)) / (logits.shape[1] - 1)


def exclusion_map(logits: Tensor, safe: Tensor) -> Tensor:
    r"""Return how far the classes other than the label are from equal logits, at every voxel.

    :math:`\frac{1}{(C - 1)(C - 2)} \sum_{i, j \ne y} -\frac12 \log \sigma(z_i - z_j)` over ordered
    pairs, i = j among them as published (they add ``log(2) / (2 (C - 2))``); 0 for two classes.

    Args:
        logits: Raw scores ``(N, C, *S)``.
        safe: Labels ``(N, *S)`` in 0 .. C - 1.

    Returns:
        ``(N, *S)``.

    Example:
        >>> exclusion_map(torch.zeros(1, 3), torch.tensor([1]))
        tensor([0.6931])
    """
    C = logits.shape[1]
    total = logits.new_zeros(safe.shape)
    if C == 2:
        return total
    for i in range(C - 1):
        gap = logits[:, i : i + 1] - logits[:, i + 1 :]
        both = F.softplus(gap) + F.softplus(-gap)  # the ordered pairs (i, j) and (j, i)
        others = torch.arange(i + 1, C, device=safe.device).view(-1, *[1] * (safe.ndim - 1))
        away = (others != safe.unsqueeze(1)) & (safe != i).unsqueeze(1)
        total = total + both.masked_fill(~away, 0).sum(dim=1)
    return (0.5 * total + 0.5 * (C - 1) * math.log(2)) / ((C - 1) * (C - 2))


class PairwiseConstraintLoss(PenaltyLoss):
    """Cross-entropy plus binary discrimination and binary exclusion constraints (CPC).

    Formula: CE + discrimination * mean_{v, k != y} softplus(z_k - z_y)
        + exclusion / (C - 2) * mean_{v, i != y} sum_{j != y} softplus(z_j - z_i) / 2
    Paper: Cheng and Vasconcelos, CVPR 2022

    See :func:`discrimination_map` and :func:`exclusion_map`; two classes have no second penalty.

    Args:
        discrimination: Factor of the constraints between the label and each other class.
        exclusion: Factor of the constraints among the other classes.
        **settings: base, ignore_index and validate, as :class:`PenaltyLoss` takes them.

    Example:
        >>> terms = PairwiseConstraintLoss(0.1).terms(torch.zeros(1, 3), torch.tensor([1]))
        >>> terms["discrimination"], terms["exclusion"]
        (tensor(0.0693), tensor(0.6931))
    """

    voxel_means = frozenset({"discrimination", "exclusion"})

    def __init__(
        self, discrimination: float = 0.1, *, exclusion: float = 1.0, **settings: Any
    ) -> None:
        super().__init__(**settings)
        check_at_least(0, discrimination=discrimination, exclusion=exclusion)
        self.discrimination = discrimination
        self.exclusion = exclusion

    def penalty(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"discrimination": ..., "exclusion": ...}``."""
        keep, safe = labeled(target, self.ignore_index)
        bdc = masked_mean(discrimination_map(logits, safe), keep)
        bec = masked_mean(exclusion_map(logits, safe), keep)
        return {"discrimination": self.discrimination * bdc, "exclusion": self.exclusion * bec}
