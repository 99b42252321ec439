"""A volume in, its logits out: padding to what a network can halve, and its output heads.

The inferer itself is monai's: ``SliceInferer`` for 2D networks, ``SlidingWindowInferer`` for 3D.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from monai.inferers import Inferer
from torch import Tensor

__all__ = ["head_weights", "pad_to_multiple", "split_heads", "volume_logits"]


def pad_to_multiple(image: Tensor, divisor: int) -> tuple[Tensor, tuple[slice, ...]]:
    """Repeat the border until every spatial size is a multiple of ``divisor``.

    Args:
        image: ``(N, M, *S)``.
        divisor: What the network's poolings multiply to, at least 1.

    Returns:
        The padded image ``(N, M, *S')`` and the slices that cut ``(N, C, *S')`` back to ``S``.

    Example:
        >>> padded, crop = pad_to_multiple(torch.zeros(1, 1, 154, 214), 16)
        >>> padded.shape, padded[crop].shape
        (torch.Size([1, 1, 160, 224]), torch.Size([1, 1, 154, 214]))
    """
    sizes = image.shape[2:]
    margins = [-size % divisor for size in sizes]
    before = [margin // 2 for margin in margins]
    spatial = [slice(b, b + size) for b, size in zip(before, sizes, strict=True)]
    crop = (slice(None), slice(None), *spatial)
    if not any(margins):
        return image, crop
    pads = [
        part
        for start, margin in zip(reversed(before), reversed(margins), strict=True)
        for part in (start, margin - start)
    ]
    return F.pad(image, pads, mode="replicate"), crop


def split_heads(output: Tensor | Sequence[Tensor], spatial_dims: int) -> list[Tensor]:
    """Return the output heads of a network as a list of ``(N, C, *S)``.

    A plain tensor is one head; a list is U-Net++'s or SegResNetDS's deep supervision; a tensor with
    one axis more, ``(N, heads, C, *S)``, is DynUNet's.
    """
    if isinstance(output, Tensor):
        return list(output.unbind(dim=1)) if output.ndim == spatial_dims + 3 else [output]
    return list(output)


def head_weights(n_heads: int, main: int) -> list[float]:
    """Return weights that halve with the distance from the ``main`` head and sum to 1.

    Example:
        >>> head_weights(3, main=-1)
        [0.14285714285714285, 0.2857142857142857, 0.5714285714285714]
    """
    position = main % n_heads
    raw = [0.5 ** abs(position - head) for head in range(n_heads)]
    return [weight / sum(raw) for weight in raw]


def volume_logits(image: Tensor, network: Callable[[Tensor], Tensor], inferer: Inferer) -> Tensor:
    """Return logits ``(N, C, *S)`` in float32 for whole volumes ``(N, M, *S)``.

    What is averaged where windows overlap are logits, not probabilities.
    """
    logits = inferer(image, network)
    if not isinstance(logits, Tensor):
        raise TypeError(f"{type(inferer).__name__} must return one tensor, got {type(logits)}.")
    return torch.as_tensor(logits).float()
