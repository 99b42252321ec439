"""The Brier score as a loss."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mbls.losses._pointwise import Chunk, Pointwise, pointwise_means
from mbls.losses.base import Loss

__all__ = ["BrierLoss", "BrierTerm", "brier_map"]


def brier_map(logits: Tensor, safe: Tensor) -> Tensor:
    r"""Return :math:`\sum_k (p_k - q_k)^2` at every voxel.

    Args:
        logits: Raw scores ``(N, C, *S)``.
        safe: Labels ``(N, *S)`` in 0 .. C - 1.

    Returns:
        ``(N, *S)``, in [0, 2].

    Example:
        >>> import torch
        >>> brier_map(torch.zeros(1, 2), torch.tensor([1]))
        tensor([0.5000])
    """
    probs = logits.softmax(dim=1)
    hot = probs.new_zeros(probs.shape).scatter_(1, safe.unsqueeze(1), 1.0)
    return (probs - hot).square().sum(dim=1)


@dataclass(frozen=True)
class BrierTerm(Pointwise):
    """:func:`brier_map` on a chunk, with its gradient."""

    def plain(self, logits: Tensor, safe: Tensor) -> Tensor:
        """Return :func:`brier_map`."""
        return brier_map(logits, safe)

    def value(self, chunk: Chunk) -> Tensor:
        """Return ``sum_k p_k^2 - 2 p_y + 1``, from the gaps, which lose no digits near 0."""
        return self._gap(chunk).square_().sum(dim=1, keepdim=True)

    def add_gradient(self, chunk: Chunk, weight: Tensor, gradient: Tensor) -> None:
        """Add ``2 p_k (g_k - sum_j p_j g_j)`` with the gaps ``g = p - q``."""
        gap, probs = self._gap(chunk), chunk.probs
        inner = torch.mul(gap, probs, out=chunk.buffer("products")).sum(dim=1, keepdim=True)
        gradient.addcmul_(gap.sub_(inner).mul_(probs), weight, value=2)

    def _gap(self, chunk: Chunk) -> Tensor:
        minus = chunk.probs.new_full((), -1.0).expand(chunk.label.shape)
        return chunk.buffer("work").copy_(chunk.probs).scatter_add_(1, chunk.label, minus)


class BrierLoss(Loss):
    """The Brier score, summed over classes, mean over voxels; see :func:`brier_map`.

    Formula: mean_v sum_k (p_k - q_k)^2
    Paper: Brier, Monthly Weather Review 1950

    Args:
        ignore_index: The label of voxels that take no part.
        validate: Refuse labels that are no class; the host then waits for the device.

    Example:
        >>> import torch
        >>> BrierLoss()(torch.zeros(1, 2), torch.tensor([1]))
        tensor(0.5000)
    """

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"brier": ...}``."""
        logits, target = self.prepare(logits, target)
        (value,) = pointwise_means(logits, target, [BrierTerm()], ignore_index=self.ignore_index)
        return {"brier": value}
