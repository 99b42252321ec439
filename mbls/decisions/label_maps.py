"""One label map from a threshold for each class."""

import torch
from torch import Tensor

__all__ = ["label_map"]

LEAST = 1 / 120
"""What a threshold of 0 counts as in the ratio: half a step of the thresholds k/60."""


def label_map(probs: Tensor, thresholds: Tensor, *, least: float = LEAST) -> Tensor:
    r"""Return the class of each voxel.

    Among the foreground classes with :math:`p_k > t_k` it is the one with the largest
    :math:`p_k / t_k`, the first of equal ones, and background if there is none. With a single
    foreground class this is :math:`p > t`.

    Args:
        probs: Probabilities ``(N, C, *S)``.
        thresholds: Threshold of each foreground class, float32, ``(C - 1,)`` for all cases, or
            ``(N, C - 1)``.
        least: What a lower threshold counts as in the ratio.

    Returns:
        int64 ``(N, *S)``.
    """
    thresholds = thresholds.to(probs.device).expand(len(probs), -1)
    label = torch.zeros_like(probs[:, 0], dtype=torch.int64)
    best = torch.zeros_like(probs[:, 0])
    for k, threshold in enumerate(thresholds.unbind(dim=1), 1):
        own = threshold.view(-1, *[1] * (probs.ndim - 2))
        ratio = probs[:, k] / own.clamp_min(least).to(probs.dtype)
        chosen = (probs[:, k].float() > own) & (ratio > best)
        label.masked_fill_(chosen, k)
        best = torch.where(chosen, ratio, best)
    return label
