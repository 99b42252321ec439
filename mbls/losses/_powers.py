"""Powers and logarithms whose gradient stays finite at the ends of the unit interval."""

from torch import Tensor

__all__ = ["label_log_probs", "power"]

TINY = 1e-7  # below it a power is continued linearly


def power(base: Tensor, exponent: float | Tensor) -> Tensor:
    """Return ``base ** exponent``, continued linearly below 1e-7.

    An exponent below 1 has an infinite slope at 0, which a perfect prediction reaches.

    Args:
        base: Not negative.
        exponent: At least 0.

    Returns:
        The power, of the same shape.

    Example:
        >>> import torch
        >>> power(torch.tensor([0.0, 0.25]), 0.5)
        tensor([0.0000, 0.5000])
    """
    return base * base.clamp_min(TINY).pow(exponent - 1)


def label_log_probs(logits: Tensor, safe: Tensor) -> Tensor:
    """Return the log-probability of each voxel's label.

    Args:
        logits: ``(N, C, *S)``.
        safe: Labels ``(N, *S)`` in 0 .. C - 1.

    Returns:
        ``(N, *S)``, not positive.
    """
    return logits.log_softmax(dim=1).gather(1, safe.unsqueeze(1)).squeeze(1)
