"""Checks of a metric's inputs before anything is counted."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

# softmax outputs sum to one up to rounding
SUM_TOLERANCE = {
    torch.float64: 1e-5,
    torch.float32: 1e-4,
    torch.float16: 5e-3,
    torch.bfloat16: 3e-2,
}


def check_unions(
    num_classes: int, unions: Mapping[str, Sequence[int]] | None
) -> dict[str, tuple[int, ...]]:
    """Return the named sets of classes as tuples.

    Raises:
        ValueError: If there are fewer than two classes, or a set is empty, repeats a class, or
            names one that does not exist.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be >= 2 (background included), got {num_classes}.")
    checked = {
        str(name): tuple(int(k) for k in members) for name, members in (unions or {}).items()
    }
    for name, members in checked.items():
        if not members or len(set(members)) != len(members):
            raise ValueError(f"Union {name!r} must name each of its classes once, got {members}.")
        if not all(0 <= k < num_classes for k in members):
            raise ValueError(
                f"Union {name!r} must consist of classes 0..{num_classes - 1}, got {members}."
            )
    return checked


def check_ignore_index(ignore_index: int, num_classes: int) -> int:
    """Return ``ignore_index``.

    Raises:
        ValueError: If it is one of the classes.
    """
    if 0 <= ignore_index < num_classes:
        raise ValueError(
            f"ignore_index must not be one of the classes 0..{num_classes - 1}, got "
            f"{ignore_index}. For the calibration of labeled foreground use region='label'; "
            "overlap and surface metrics only average foreground classes anyway."
        )
    return ignore_index


def check_shapes(
    probs: Tensor, target: Tensor, num_classes: int, *, class_maps: bool = False
) -> Tensor:
    """Check types and shapes, and return the target as ``(N, *S)``.

    Args:
        probs: Probabilities ``(N, C, *S)``, float16, bfloat16, float32 or float64.
        target: Labels ``(N, *S)`` or ``(N, 1, *S)``, integers or whole floats.
        num_classes: C.
        class_maps: If True, ``probs`` may also be predicted classes ``(N, *S)``, integers.

    Raises:
        TypeError: An input is not a tensor, the probabilities are not floating point, or the target
            is boolean or complex.
        ValueError: If the shapes do not match.
    """
    for name, given in {"probs": probs, "target": target}.items():
        if not isinstance(given, Tensor):
            raise TypeError(
                f"{name} must be a torch.Tensor, got {type(given).__module__}."
                f"{type(given).__name__}; use torch.as_tensor({name}) for a numpy array."
            )
    if target.dtype == torch.bool or target.is_complex():
        raise TypeError(
            f"target must be class numbers, got {target.dtype}; convert it with .long()."
        )
    if class_maps and is_class_map(probs):
        expected = tuple(probs.shape)
    elif probs.dtype not in SUM_TOLERANCE:
        raise TypeError(
            f"probs must be (N, {num_classes}, *S) probabilities in float16, bfloat16, float32 or "
            f"float64, got {probs.dtype} {tuple(probs.shape)}. Calibration needs probabilities; "
            "DiceScore and the surface metrics also take predicted classes (N, *S), integers."
        )
    elif probs.ndim < 2 or probs.shape[1] != num_classes:
        raise ValueError(
            f"probs must be (N, {num_classes}, *S): one channel for each of the {num_classes} "
            f"classes on axis 1, got {tuple(probs.shape)}."
        )
    else:
        expected = (probs.shape[0], *probs.shape[2:])
    with_channel = (*expected[:1], 1, *expected[1:])
    if tuple(target.shape) not in (expected, with_channel):
        if target.is_floating_point() and target.shape == probs.shape:
            raise ValueError(
                f"target must be the labels of one reader, {expected} or {with_channel}, got soft "
                f"labels {tuple(target.shape)}. Score each reader's labels on their own; pass the "
                "probabilities as posterior= to CalibrationHistogram (in a batch: 'posterior'); or "
                "take 1 - mbls.losses.soft_dice_loss(probs, target)."
            )
        raise ValueError(
            f"target must be {expected} or {with_channel} to match probs {tuple(probs.shape)}, "
            f"got {tuple(target.shape)}."
        )
    return target.reshape(expected)


def is_class_map(probs: Tensor) -> bool:
    """Return True for predicted classes (integers) instead of scores per class."""
    return not (probs.is_floating_point() or probs.is_complex() or probs.dtype == torch.bool)


def check_index(index: Tensor | None, batch: int, num_cases: int | None) -> list[int] | None:
    """Return the case number of each batch entry; None without ``num_cases``.

    Raises:
        ValueError: If an index is missing, of another length than the batch, or out of range.
    """
    if num_cases is None:
        return None
    if index is None:
        raise ValueError(
            f"index is required with num_cases={num_cases}: pass the (N,) number of each case, or "
            "leave num_cases out."
        )
    numbers = [int(i) for i in torch.as_tensor(index).reshape(-1).tolist()]
    if len(numbers) != batch:
        raise ValueError(f"index must name one case for each of {batch} entries, got {numbers}.")
    if any(not 0 <= i < num_cases for i in numbers):
        raise ValueError(f"index must lie in 0..{num_cases - 1}, got {numbers}.")
    return numbers


def worst(extremes: list[Tensor]) -> Tensor:
    """Return the five numbers of :func:`refuse_invalid` over all pieces, float64 ``(5,)``."""
    pieces = torch.stack(extremes).double()
    least, most, smallest, low, high, broken = pieces.unbind(1)
    off = torch.maximum((1 - least).amax(), (most - 1).amax())
    return torch.stack([off, -smallest.amin(), high.amax(), -low.amin(), broken.amax()])


def refuse_invalid(
    worst_found: list[float], dtype: torch.dtype, num_classes: int, ignore_index: int
) -> None:
    """Raise for rows that are not distributions, and for labels that are not classes.

    Args:
        worst_found: Result of :func:`worst` on the host: the largest deviation of a row sum from 1,
            minus the smallest probability, the largest label, minus the smallest label, and the
            largest distance of a label from a whole number.
        dtype: Original dtype of the probabilities, for the tolerance of their sum.
        num_classes: C.
        ignore_index: Label of ignored voxels.

    Raises:
        ValueError: With the rule and the value found.
    """
    off, low, high, negative, broken = worst_found
    tolerance = SUM_TOLERANCE[dtype]
    if not low <= 0 or not off <= tolerance:
        raise ValueError(
            f"probs must be >= 0 and sum to 1 over the classes (within {tolerance} for {dtype}), "
            f"got a smallest value of {0 - low:g} and a sum off by {off:g}. Apply softmax to "
            "logits; NaN comes from the network."
        )
    refuse_labels("target", 0 - negative, high, broken, num_classes, ignore_index)


def refuse_labels(
    name: str, low: float, high: float, broken: float, num_classes: int, ignore_index: int
) -> None:
    """Raise for labels that are not classes.

    Args:
        name: Name of the argument.
        low: The smallest label, without ignored ones.
        high: The largest label.
        broken: The largest distance from a whole number.
        num_classes: C.
        ignore_index: Label of ignored voxels.

    Raises:
        ValueError: With the rule, the labels found and the way out.
    """
    if not broken == 0:
        raise ValueError(f"{name} must be whole class numbers, got one off by {broken:g}.")
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"{name} must be classes 0..{num_classes - 1} or ignore_index {ignore_index}, got "
            f"labels from {low:.0f} to {high:.0f}. Set ignore_index="
            f"{low if low < 0 else high:.0f} to ignore that label, or a larger num_classes."
        )
