"""The rules for arguments, checked at construction, and for logits and labels, at each call."""

import math
from collections.abc import Collection

import torch
from torch import Tensor

__all__ = [
    "check_above",
    "check_at_least",
    "check_count",
    "check_labels",
    "check_one_of",
    "check_shapes",
    "check_within",
    "is_readable",
    "prepare",
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
        target: Labels ``(N, *S)`` or ``(N, 1, *S)``, integers or floats that are integral.
        ignore_index: Label of ignored voxels; None if it is not known here:
            labels are then not compared with the classes.
        validate: If True, check every label, which syncs an accelerator; otherwise check only the
            smallest and largest, on the CPU (:func:`check_labels`).

    Returns:
        The logits in float32, or float64 where they were, and the labels ``(N, *S)`` in int64.

    Raises:
        TypeError: The logits are not floating, or the target is complex.
        ValueError: Wrong rank or shape, fewer than two classes, or labels that are not classes.
    """
    check_shapes(logits, target)
    if target.ndim == logits.ndim:
        target = target.squeeze(1)
    if validate or is_readable(target):
        check_labels(target, logits.shape[1], ignore_index, each=validate)
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(wide), target.to(torch.int64)


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
    if tuple(target.shape) not in ((n, *space), (n, 1, *space)):
        raise ValueError(
            f"target must have shape {(n, *space)} or {(n, 1, *space)} for logits "
            f"{tuple(logits.shape)}, got {tuple(target.shape)}."
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
            raise ValueError(f"target must be integral labels, got {found}; soft ones do not fit.")
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


def is_readable(target: Tensor) -> bool:
    """Return True if reading a value neither waits for a device nor breaks a compiled graph."""
    return target.device.type == "cpu" and not torch.compiler.is_compiling()
