"""The Brier score as a loss."""

from torch import Tensor

from mbls.losses._masking import labeled, masked_mean
from mbls.losses.base import Loss

__all__ = ["BrierLoss", "brier_map"]


def brier_map(logits: Tensor, safe: Tensor) -> Tensor:
    r"""Return :math:`\sum_k (p_k - q_k)^2` at every voxel.

    Args:
        logits: Raw scores ``(N, C, *S)``.
        safe: Labels ``(N, *S)`` in 0 .. C - 1, or soft labels ``(N, C, *S)``.

    Returns:
        ``(N, *S)``, in [0, 2].

    Example:
        >>> import torch
        >>> brier_map(torch.zeros(1, 2), torch.tensor([1]))
        tensor([0.5000])
    """
    probs = logits.softmax(dim=1)
    soft = safe.is_floating_point()
    maps = safe if soft else probs.new_zeros(probs.shape).scatter_(1, safe.unsqueeze(1), 1.0)
    return (probs - maps).square().sum(dim=1)


class BrierLoss(Loss):
    """The Brier score, summed over classes, mean over voxels; see :func:`brier_map`.

    Formula: mean_v sum_k (p_k - q_k)^2
    Paper: Brier, Monthly Weather Review 1950

    Args:
        **settings: ignore_index and validate, as :class:`Loss` takes them.

    Example:
        >>> import torch
        >>> BrierLoss()(torch.zeros(1, 2), torch.tensor([1]))
        tensor(0.5000)
    """

    voxel_means = frozenset({"brier"})
    soft_targets = True

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return ``{"brier": ...}``."""
        logits, target = self.prepare(logits, target)
        keep, safe = labeled(target, self.ignore_index)
        return {"brier": masked_mean(brier_map(logits, safe), keep)}
