"""Means over the labeled voxels, finite without any, class maps, and powers with finite slopes."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "as_images",
    "class_maps",
    "image_mean",
    "is_labeled",
    "label_log_probs",
    "labeled",
    "masked_mean",
    "one_hot",
    "power",
]

TINY = 1e-7  # below it a power is continued linearly


def is_labeled(target: Tensor, ignore_index: int) -> Tensor:
    """Return the mask of labeled voxels, bool ``(N, *S)``.

    Args:
        target: Labels ``(N, *S)``, int64, or soft labels ``(N, C, *S)``, of which a voxel is
            ignored if all its channels are.
        ignore_index: The label of voxels that take no part.
    """
    keep = target != ignore_index
    return keep.any(dim=1) if target.is_floating_point() else keep


def labeled(target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return the mask of labeled voxels and the labels with 0 in place of the ignored ones.

    Args:
        target: Labels ``(N, *S)``, int64, or soft labels ``(N, C, *S)``, floating.
        ignore_index: The label of voxels that take no part.

    Returns:
        ``keep`` bool ``(N, *S)``, and ``safe``, of the target's shape and dtype: labels that can
        index classes, or probabilities that are 0 where ignored.
    """
    keep = is_labeled(target, ignore_index)
    where = keep.unsqueeze(1) if target.is_floating_point() else keep
    return keep, torch.where(where, target, 0)


def masked_mean(values: Tensor, keep: Tensor) -> Tensor:
    """Average over the kept entries; zero, with a gradient of zero, where none is kept.

    Args:
        values: Any shape.
        keep: Bool of the same shape.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> masked_mean(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([True, True, False]))
        tensor(1.5000)
    """
    return torch.where(keep, values, 0).sum() / keep.sum().clamp_min(1)  # faster than a fill


def one_hot(safe: Tensor, keep: Tensor, like: Tensor) -> Tensor:
    """Return class-first one-hot maps; an ignored voxel is zero in every class.

    Args:
        safe: Labels ``(N, *S)`` in 0 .. C - 1.
        keep: Bool ``(N, *S)``.
        like: ``(N, C, *S)``, for the shape, dtype and device.

    Returns:
        ``(N, C, *S)``, no gradient.
    """
    maps = like.new_zeros(like.shape)
    return maps.scatter_(1, safe.unsqueeze(1), keep.unsqueeze(1).to(maps.dtype))


def class_maps(safe: Tensor, keep: Tensor, like: Tensor) -> Tensor:
    """Return the target's probability of each class ``(N, C, *S)``, no gradient.

    It is zero in every class at an ignored voxel.

    Args:
        safe: Labels ``(N, *S)`` in 0 .. C - 1, whose maps are one-hot, or soft labels
            ``(N, C, *S)``, which are the maps; both as :func:`labeled` returns them.
        keep: Bool ``(N, *S)``.
        like: ``(N, C, *S)``, for the shape, dtype and device.
    """
    return safe if safe.is_floating_point() else one_hot(safe, keep, like)


def as_images(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Give logits without spatial axes one, for the losses that sum within an image.

    A batch ``(N, C)`` of plain class scores counts as one image of N voxels; anything with spatial
    axes stays as it is.

    Args:
        logits: Scores or probabilities ``(N, C, *S)``.
        target: Labels ``(N, *S)``, or soft labels ``(N, C, *S)``.

    Returns:
        ``(1, C, N)`` and ``(1, N)`` for ``(N, C)`` and ``(N,)``, else the arguments; soft labels
        as the logits.
    """
    if logits.ndim > 2:
        return logits, target
    if target.is_floating_point():
        target = target.transpose(0, 1)
    return logits.transpose(0, 1).unsqueeze(0), target.unsqueeze(0)


def image_mean(values: Tensor, keep: Tensor, weight: Tensor | None = None) -> Tensor:
    """Average per-image values over the images that have a labeled voxel.

    Args:
        values: ``(N, K)``, one row an image.
        keep: Bool ``(N, *S)``.
        weight: What each of the K counts ``(K,)``; None for 1.

    Returns:
        A scalar: the mean over those images and all K; zero without any.
    """
    if weight is not None:
        weight = weight.to(values)
        values = (values * weight).sum(dim=1, keepdim=True) / weight.sum()
    present = keep.flatten(1).any(dim=1, keepdim=True).expand_as(values)
    return masked_mean(values, present)


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
    return -F.cross_entropy(logits, safe, reduction="none")
