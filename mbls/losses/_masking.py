"""Which voxels take part, and sums over them that stay finite when none does."""

from torch import Tensor

__all__ = ["as_images", "image_mean", "labelled", "masked_mean", "one_hot"]


def labelled(target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return the mask of labelled voxels and the labels with 0 in place of the ignored ones.

    Args:
        target: Labels ``(N, *S)``, int64.
        ignore_index: The label of voxels that take no part.

    Returns:
        ``keep`` bool and ``safe`` int64, both ``(N, *S)``; ``safe`` can index classes.
    """
    keep = target != ignore_index
    return keep, target.masked_fill(~keep, 0)


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
    return values.masked_fill(~keep, 0).sum() / keep.sum().clamp_min(1)


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


def as_images(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Give logits without spatial axes one, for the losses that sum within an image.

    A batch ``(N, C)`` of plain class scores counts as one image of N voxels; anything with spatial
    axes stays as it is.

    Args:
        logits: Scores or probabilities ``(N, C, *S)``.
        target: Labels ``(N, *S)``.

    Returns:
        ``(1, C, N)`` and ``(1, N)`` for ``(N, C)`` and ``(N,)``, else the arguments.
    """
    if logits.ndim > 2:
        return logits, target
    return logits.transpose(0, 1).unsqueeze(0), target.unsqueeze(0)


def image_mean(values: Tensor, keep: Tensor, weight: Tensor | None = None) -> Tensor:
    """Average per-image values over the images that have a labelled voxel.

    Args:
        values: ``(N, K)``, one row an image.
        keep: Bool ``(N, *S)``.
        weight: What each of the K counts ``(K,)``; None for 1.

    Returns:
        A scalar: the mean over those images and all K; zero where there is none.
    """
    if weight is not None:
        weight = weight.to(values)
        values = (values * weight).sum(dim=1, keepdim=True) / weight.sum()
    present = keep.flatten(1).any(dim=1, keepdim=True).expand_as(values)
    return masked_mean(values, present)
