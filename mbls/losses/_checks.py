"""The rules for arguments, checked at construction, and for logits and labels, at each call."""

import math
from collections.abc import Collection

import torch
from torch import Tensor

SUM_TOLERANCE = 0.01  # of probabilities in bfloat16, or interpolated in float16

__all__ = [
    "check_above",
    "check_at_least",
    "check_count",
    "check_labels",
    "check_one_of",
    "check_shapes",
    "check_soft",
    "check_within",
    "is_readable",
    "is_soft",
    "prepare",
    "refuse_soft",
]


def check_at_least(low: float, **values: float) -> None:
    """Raise ValueError unless each named value is finite and at least ``low``."""
    for name, value in values.items():
        if not (math.isfinite(value) and value >= low):
            raise ValueError(f"{name} must be >= {low:g} and finite, got {value}.")


def check_above(low: float, **values: float) -> None:
    """Raise ValueError unless each named value is finite and greater than ``low``."""
    for name, value in values.items():
        if not (math.isfinite(value) and value > low):
            raise ValueError(f"{name} must be > {low:g} and finite, got {value}.")


def check_within(low: float, high: float, **values: float) -> None:
    """Raise ValueError unless each named value lies in ``[low, high]``."""
    for name, value in values.items():
        if not low <= value <= high:
            raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {value}.")


def check_count(low: int, *, odd: bool = False, **values: int) -> None:
    """Raise ValueError unless each named value is an integer >= ``low``, optionally odd."""
    for name, value in values.items():
        if not isinstance(value, int) or value < low or (odd and value % 2 == 0):
            raise ValueError(f"{name} must be an {'odd ' * odd}integer >= {low}, got {value!r}.")


def check_one_of(known: Collection[str], **values: str) -> None:
    """Raise ValueError unless each named value is one of ``known``."""
    for name, value in values.items():
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}.")


def prepare(
    logits: Tensor, target: Tensor, *, ignore_index: int | None = -100, validate: bool = False
) -> tuple[Tensor, Tensor]:
    """Convert logits and target to the common form of all formulas.

    It is idempotent, so a wrapper may pass prepared tensors to the losses inside it.

    Args:
        logits: Raw scores ``(N, C, *S)``, C >= 2, of any floating dtype, strides or device.
        target: Labels ``(N, *S)`` or ``(N, 1, *S)``, integers or floats that are integral; or soft
            labels ``(N, C, *S)``, floats (:func:`is_soft`).
        ignore_index: Label of ignored voxels; None if it is not known here:
            labels are then not compared with the classes.
        validate: If True, check every label, which syncs an accelerator; otherwise check only the
            smallest and largest, on the CPU (:func:`check_labels`, :func:`check_soft`).

    Returns:
        The logits in float32, or float64 where they were, and the labels ``(N, *S)`` in int64, or
        the soft labels ``(N, C, *S)`` in the dtype of the logits, without a gradient.

    Raises:
        TypeError: The logits are not floating, or the target is complex.
        ValueError: Wrong rank or shape, fewer than two classes, or labels that are not classes.
    """
    check_shapes(logits, target)
    wide = torch.promote_types(logits.dtype, torch.float32)
    if is_soft(logits, target):
        target = target.detach().to(wide)
        check_soft(target, ignore_index, read=validate or is_readable(target), each=validate)
        return logits.to(wide), target
    if target.ndim == logits.ndim:
        target = target.squeeze(1)
    if validate or is_readable(target):
        check_labels(target, logits.shape[1], ignore_index, each=validate)
    return logits.to(wide), target.to(torch.int64)


def is_soft(logits: Tensor, target: Tensor) -> bool:
    """Return True for soft labels: floats of the shape of the logits ``(N, C, *S)``, C >= 2.

    They are the probability of each class at each voxel, such as the mean of several readers'
    one-hot labels. Floats ``(N, *S)`` or ``(N, 1, *S)`` are integral labels.
    """
    several = logits.ndim >= 2 and logits.shape[1] >= 2
    return several and target.is_floating_point() and target.shape == logits.shape


def refuse_soft(name: str, logits: Tensor, target: Tensor) -> None:
    """Raise ValueError if the target of a loss that takes integer labels alone is soft."""
    if is_soft(logits, target):
        raise ValueError(
            f"{name} must get integer labels (N, *S), got soft labels: {target.dtype} of the "
            f"logits' shape {tuple(target.shape)}. Choose a loss that takes soft labels (column "
            "'soft' of docs/losses.md), or decide on a label: target.argmax(dim=1)."
        )


def check_shapes(logits: Tensor, target: Tensor) -> None:
    """Refuse ranks, shapes and dtypes that do not fit; reads no value.

    Raises:
        TypeError: The logits are not floating, or the target is complex.
        ValueError: Wrong rank or shape, or fewer than two classes.
    """
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating, got {logits.dtype}. Pass raw scores.")
    if target.is_complex():
        raise TypeError(f"target must be integers or integral floats, got {target.dtype}.")
    if logits.ndim < 2:
        raise ValueError(f"logits must have shape (N, C, *S), got {tuple(logits.shape)}.")
    if logits.shape[1] < 2:
        raise ValueError(
            f"logits need at least 2 classes on axis 1, got {tuple(logits.shape)}. "
            "For one foreground class give background and foreground a channel each."
        )
    n, _, *space = logits.shape
    hard = tuple(target.shape) in ((n, *space), (n, 1, *space))
    if not hard and not is_soft(logits, target):
        raise ValueError(
            f"target must have shape {(n, *space)} or {(n, 1, *space)} for logits "
            f"{tuple(logits.shape)}, or the logits' shape in floating dtype (soft labels), got "
            f"{tuple(target.shape)} in {target.dtype}."
        )


def check_labels(
    target: Tensor, num_classes: int, ignore_index: int | None, *, each: bool = True
) -> None:
    """Check the labels; on an accelerator the host waits for the answer.

    Args:
        target: Labels of any shape.
        num_classes: C; labels run from 0 to C - 1.
        ignore_index: The one label that may lie outside; None for any.
        each: Check each; else one that lies between ``ignore_index`` and the classes may pass.

    Raises:
        ValueError: A label that is not integral, or none of 0 .. C - 1 and ``ignore_index``.
    """
    if target.is_floating_point():
        broken = target.frac() != 0  # NaN for an infinity
        if bool(broken.any()):
            found = target[broken][0].item()
            raise ValueError(
                f"target must be integral labels, got {found}. Soft labels have the logits' shape: "
                "a probability for each class."
            )
    if ignore_index is None:
        return
    if target.numel():
        low, high = (int(label) for label in torch.aminmax(target))
        far = (low < 0 and low != ignore_index) or (high >= num_classes and high != ignore_index)
        if not far and not (each and (low < 0 or high >= num_classes)):
            return  # one pass
    outside = ((target < 0) | (target >= num_classes)) & (target != ignore_index)
    if bool(outside.any()):
        labels = [int(label) for label in target[outside].unique().tolist()[:5]]
        raise ValueError(
            f"target must be in 0..{num_classes - 1} or ignore_index {ignore_index}, got {labels}."
        )


def check_soft(
    target: Tensor, ignore_index: int | None, *, read: bool = True, each: bool = True
) -> None:
    """Check soft labels; on an accelerator the host waits for the answer if ``read``.

    Args:
        target: Soft labels ``(N, C, *S)``; all channels of an ignored voxel are ``ignore_index``.
        ignore_index: The value of ignored voxels; None if it is not known here.
        read: Look at values, else at ``ignore_index`` alone.
        each: Check the sum at each voxel; else only the smallest and the largest value.

    Raises:
        ValueError: An ``ignore_index`` that is a probability, a value outside [0, 1], such as
            ``ignore_index`` in only some channels of a voxel, or a sum that is not 1.
    """
    if ignore_index in (0, 1):
        raise ValueError(
            f"ignore_index must not be 0 or 1 for soft labels, where these are probabilities, got "
            f"{ignore_index}. Set it to -100."
        )
    if ignore_index is None or not read or not target.numel():
        return
    ignored = (target == ignore_index).all(dim=1, keepdim=True)
    probs = torch.where(ignored, 0, target)
    low, high = (float(value) for value in torch.aminmax(probs))
    if not (low >= -SUM_TOLERANCE and high <= 1 + SUM_TOLERANCE):  # NaN also
        raise ValueError(
            "target must be probabilities in [0, 1] (soft labels), or ignore_index "
            f"{ignore_index} in all channels of a voxel, got values from {low:g} to {high:g}."
        )
    if not each:
        return
    off = (probs.sum(dim=1, keepdim=True) - 1).abs().masked_fill(ignored, 0).max()
    if off > SUM_TOLERANCE:
        raise ValueError(
            f"target must sum to 1 over the classes at each voxel (soft labels, within "
            f"{SUM_TOLERANCE:g}), or be ignore_index {ignore_index} in all channels, got a sum off "
            f"by {float(off):g}. Divide by target.sum(dim=1, keepdim=True)."
        )


def is_readable(target: Tensor) -> bool:
    """Return True if reading a value neither waits for a device nor breaks a compiled graph."""
    return target.device.type == "cpu" and not torch.compiler.is_compiling()
