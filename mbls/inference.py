"""Inference on volumes: windows, padding to a network's divisor, and output heads.

The inferers are monai's: ``SliceInferer`` for 2D networks, ``SlidingWindowInferer`` for 3D.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from monai.inferers import Inferer, SliceInferer, SlidingWindowInferer
from torch import Tensor

__all__ = [
    "PaddedSlices",
    "Window",
    "describe_inferer",
    "head_weights",
    "inferer_for",
    "pad_to_multiple",
    "split_heads",
    "volume_logits",
]


Window = Literal["patch", "padded", "whole"]


class PaddedSlices(SliceInferer):
    """Whole slices, zero-padded on both sides to at least ``least``."""

    def __init__(self, least: tuple[int, ...], **settings: Any) -> None:
        super().__init__(roi_size=least, **settings)
        self.least = least

    def __call__(
        self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Return the logits of a volume ``(N, M, X, Y, Z)``."""
        sizes = zip(inputs.shape[2:4], self.least, strict=True)
        self.orig_roi_size = tuple(max(pair) for pair in sizes)
        return super().__call__(inputs, network, *args, **kwargs)


def inferer_for(
    spatial_dims: int,
    patch_size: Sequence[int] | None,
    *,
    crop: Literal["center", "random"] = "random",
    window: Window | None = None,
    overlap: float = 0.5,
    device: str | None = None,
) -> Inferer:
    """Return an inferer whose windows match the training samples of a network.

    Slices and volumes smaller than a training sample are zero-padded on both sides, like the
    samples. Larger ones are covered by overlapping windows of the samples' size; their logits are
    averaged with Gaussian weights (sigma: an eighth of the window). Center-cropped slices are the
    exception: a network that has only seen centered structures would find one in every window, so
    slices are passed whole. Volumes are too large for that.

    Args:
        spatial_dims: Dimensions of the network: 2 (slices of a volume) or 3.
        patch_size: Size of the training samples; None passes whole slices or volumes.
        crop: Where the training samples are cropped.
        window: ``"patch"`` for windows of ``patch_size``, ``"padded"`` for whole slices of at least
            that size, ``"whole"`` for whole slices or volumes; None is ``"padded"`` for slices with
            ``crop="center"``, otherwise ``"patch"``.
        overlap: Overlap of neighboring windows, as a fraction of their size.
        device: Device of the assembled logits; None for that of the volume.

    Raises:
        ValueError: An argument is out of range.
    """
    window = window or ("padded" if crop == "center" and spatial_dims == 2 else "patch")
    allowed = ("patch", "padded", "whole") if spatial_dims == 2 else ("patch", "whole")
    if window not in allowed:
        raise ValueError(
            f"window must be {' or '.join(allowed)} for spatial_dims {spatial_dims}, got "
            f"{window!r}."
        )
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be in [0, 1), got {overlap}.")
    if patch_size is not None and len(patch_size) != spatial_dims:
        raise ValueError(
            f"patch_size must have {spatial_dims} values for spatial_dims {spatial_dims}, got "
            f"{patch_size}."
        )
    settings: dict[str, Any] = {"sw_batch_size": 1, "device": device}
    if spatial_dims == 2:
        settings = {"sw_batch_size": 16, "spatial_dim": 2, "device": device}
    kind = SliceInferer if spatial_dims == 2 else SlidingWindowInferer
    if patch_size is None or window == "whole":
        return kind(roi_size=(-1,) * spatial_dims, **settings)
    if window == "padded":
        return PaddedSlices(tuple(patch_size), **settings)
    return kind(roi_size=tuple(patch_size), overlap=overlap, mode="gaussian", **settings)


def describe_inferer(inferer: Inferer) -> str:
    """Return a description of an inferer's windows.

    Example:
        >>> describe_inferer(inferer_for(2, (48, 48)))
        'windows of 48 x 48'
        >>> describe_inferer(inferer_for(2, (48, 48), window="whole"))
        'whole slices'
    """
    if isinstance(inferer, PaddedSlices):
        return f"whole slices, at least {' x '.join(map(str, inferer.least))}"
    size = getattr(inferer, "orig_roi_size", None) or getattr(inferer, "roi_size", None)
    if not isinstance(size, Sequence):
        return type(inferer).__name__
    if max(size) < 1:
        return "whole slices" if len(size) == 2 else "whole volumes"
    return f"windows of {' x '.join(map(str, size))}"


def pad_to_multiple(
    image: Tensor, divisor: int | Sequence[int], *, least: int = 1
) -> tuple[Tensor, tuple[slice, ...]]:
    """Replicate the border until every spatial size is a multiple of ``divisor``.

    Args:
        image: ``(N, M, *S)``.
        divisor: Total stride of the network, at least 1; one for all axes, or one for each.
        least: Minimum multiple on the last axis if all axes have size ``divisor``: with 2 no image
            is pooled to a single voxel, which instance normalization rejects.

    Returns:
        The padded image ``(N, M, *S')`` and the slices that crop ``(N, C, *S')`` back to ``S``.

    Example:
        >>> padded, crop = pad_to_multiple(torch.zeros(1, 1, 154, 214), 16)
        >>> padded.shape, padded[crop].shape
        (torch.Size([1, 1, 160, 224]), torch.Size([1, 1, 154, 214]))
    """
    sizes = image.shape[2:]
    strides = (divisor,) * len(sizes) if isinstance(divisor, int) else tuple(divisor)
    margins = [-size % stride for size, stride in zip(sizes, strides, strict=True)]
    if all(s + margin == d for s, margin, d in zip(sizes, margins, strides, strict=True)):
        margins[-1] += (least - 1) * strides[-1]
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

    A tensor is one head; a list comes from U-Net++ or SegResNetDS; a tensor with one more axis,
    ``(N, heads, C, *S)``, comes from DynUNet.
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


def volume_logits(
    image: Tensor,
    network: Callable[[Tensor], Tensor],
    inferer: Inferer,
    *,
    mirror: Sequence[int] = (),
) -> Tensor:
    """Return logits ``(N, C, *S)`` in float32 for whole volumes ``(N, M, *S)``.

    Overlapping windows and mirrored copies are averaged as float32 logits, not as probabilities,
    at any precision of the network.

    Args:
        image: The volumes.
        network: Maps slices or windows to their logits.
        inferer: Cuts the volumes into windows and assembles the logits.
        mirror: Spatial axes of the network's input; the logits are averaged over the mirrorings
            along every subset of them.
    """
    subsets = [
        [axis + 2 for axis in axes]
        for count in range(len(mirror) + 1)
        for axes in itertools.combinations(sorted(set(mirror)), count)
    ]

    def predict(window: Tensor) -> Tensor:
        window = window.to(image.dtype)
        total = network(window).float()
        for axes in subsets[1:]:
            total = total + network(window.flip(axes)).float().flip(axes)
        return total / len(subsets) if len(subsets) > 1 else total

    logits = inferer(image.float(), predict)
    if not isinstance(logits, Tensor):
        raise TypeError(f"{type(inferer).__name__} must return one tensor, got {type(logits)}.")
    return torch.as_tensor(logits).float()
