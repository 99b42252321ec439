"""Focal losses: cross-entropy weighted by how far the label's probability is from 1."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from mbls.losses._class_weights import ClassWeightedLoss, weighted_mean
from mbls.losses._masking import labelled
from mbls.losses._pointwise import Chunk, Pointwise, pointwise_means
from mbls.losses._powers import TINY, label_log_probs, power
from mbls.losses._settings import check_at_least

__all__ = ["AdaptiveFocalLoss", "FocalLoss", "FocalTerm", "adaptive_exponents", "focal_map"]


def focal_map(logits: Tensor, safe: Tensor, gamma: float) -> Tensor:
    r"""Return :math:`-(1 - p_y)^\gamma \log p_y` at every voxel.

    Args:
        logits: Raw scores ``(N, C, *S)``.
        safe: Labels ``(N, *S)`` in 0 .. C - 1.
        gamma: Exponent >= 0; 0 is cross-entropy.

    Returns:
        ``(N, *S)``.

    Example:
        >>> import torch
        >>> focal_map(torch.zeros(1, 2), torch.tensor([1]), gamma=2.0)
        tensor([0.1733])
    """
    log_p = label_log_probs(logits, safe)
    if gamma == 0:
        return -log_p
    return -power(-log_p.expm1(), gamma) * log_p


@dataclass(frozen=True)
class FocalTerm(Pointwise):
    """:func:`focal_map` on a chunk, with its gradient.

    Args:
        gamma: Exponent >= 0, from a label's probability of 0.5 on if ``adaptive``.
        adaptive: FLSD-53: see :func:`adaptive_exponents`.
    """

    gamma: float
    adaptive: bool = False

    def plain(self, logits: Tensor, safe: Tensor) -> Tensor:
        """Return the focal map."""
        if not self.adaptive:
            return focal_map(logits, safe, self.gamma)
        log_p = label_log_probs(logits, safe)
        return -power(-log_p.expm1(), adaptive_exponents(log_p.exp(), self.gamma)) * log_p

    def value(self, chunk: Chunk) -> Tensor:
        """Return ``-(1 - p_y)^g log p_y``."""
        log_p = chunk.label_log_probs
        return power(self._rest(log_p), self._exponents(log_p)).mul_(log_p).neg_()

    def add_gradient(self, chunk: Chunk, weight: Tensor, gradient: Tensor) -> None:
        """Add ``slope * (p - q)``, the slope that by ``-log p_y``."""
        log_p = chunk.label_log_probs
        exponents = self._exponents(log_p)
        rest = self._rest(log_p)
        small = rest.clamp_min(TINY)
        # power(rest, g) = rest * max(rest, TINY)^(g - 1), and its derivative
        first = small.pow(exponents - 1)
        slope = first * (1 + (exponents - 1) * (rest >= TINY))
        slope = weight * (rest * first - slope * log_p.exp() * log_p)
        gradient.addcmul_(chunk.exps, slope / chunk.total)
        gradient.scatter_add_(1, chunk.label, slope.neg_())

    def _rest(self, log_p: Tensor) -> Tensor:
        """Return ``1 - p_y``, never 0 for the exponent 0, whose factor is 1 everywhere."""
        rest = -log_p.expm1()
        return rest if self.gamma or self.adaptive else rest.clamp_min(TINY)

    def _exponents(self, log_p: Tensor) -> Tensor | float:
        return adaptive_exponents(log_p.exp(), self.gamma) if self.adaptive else self.gamma


class FocalLoss(ClassWeightedLoss):
    """Focal loss, mean over the labelled voxels; see :func:`focal_map`.

    Formula: mean_v -(1 - p_y)^gamma log p_y
    Paper: Lin et al., ICCV 2017, arXiv:1708.02002

    With ``weight`` w it is ``sum_v -w_y (1 - p_y)^gamma log p_y / sum_v w_y``, so that gamma 0 is
    weighted cross-entropy; the paper's alpha is w up to that denominator.

    Args:
        gamma: Exponent >= 0; 0 is cross-entropy.
        weight: What each class counts, the background first; None for 1.
        ignore_index: The label of voxels that take no part.
        validate: Refuse labels that are no class; the host then waits for the device.

    Example:
        >>> import torch
        >>> FocalLoss(2.0)(torch.zeros(1, 2), torch.tensor([1]))
        tensor(0.1733)
    """

    flsd = False  # the exponent follows the probability

    means = frozenset({"focal"})

    def __init__(
        self,
        gamma: float = 3.0,
        *,
        weight: Sequence[float] | None = None,
        ignore_index: int = -100,
        validate: bool = False,
    ) -> None:
        super().__init__(weight, ignore_index=ignore_index, validate=validate)
        check_at_least("gamma", gamma, 0)
        self.gamma = gamma

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"focal": ...}``."""
        logits, target = self.prepare(logits, target)
        term = FocalTerm(self.gamma, adaptive=self.flsd)
        if self.weight is not None:
            keep, safe = labelled(target, self.ignore_index)
            value = weighted_mean(term.plain(logits, safe), safe, keep, self.weight)
            return {"focal": value}
        (value,) = pointwise_means(logits, target, [term], ignore_index=self.ignore_index)
        return {"focal": value}


def adaptive_exponents(label_probs: Tensor, gamma: float) -> Tensor:
    """Return FLSD-53's exponents: 5 below 0.2, 3 below 0.5, ``gamma`` from 0.5 on; no gradient.

    Args:
        label_probs: p_y, any shape.
        gamma: The exponent from 0.5 on.

    Returns:
        The exponents, of the same shape.

    Example:
        >>> import torch
        >>> adaptive_exponents(torch.tensor([0.1, 0.2, 0.5]), gamma=2.0)
        tensor([5., 3., 2.])
    """
    p = label_probs.detach()
    exponents = p.new_full(p.shape, gamma)
    return exponents.masked_fill(p < 0.5, 3.0).masked_fill(p < 0.2, 5.0)


class AdaptiveFocalLoss(FocalLoss):
    """Focal loss whose exponent follows the label's probability; see :func:`adaptive_exponents`.

    Formula: mean_v -(1 - p_y)^g log p_y; g = 5 if p_y < 0.2, 3 if p_y < 0.5, else gamma (FLSD-53)
    Paper: Mukhoti et al., NeurIPS 2020, arXiv:2002.09437

    Args:
        gamma: Exponent >= 0 where the label's probability is 0.5 or more.
        weight: What each class counts, the background first, as in :class:`FocalLoss`.
        ignore_index: The label of voxels that take no part.
        validate: Refuse labels that are no class; the host then waits for the device.

    Example:
        >>> import torch
        >>> AdaptiveFocalLoss(2.0)(torch.zeros(1, 2), torch.tensor([1]))
        tensor(0.1733)
    """

    flsd = True
