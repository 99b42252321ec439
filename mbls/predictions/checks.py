"""Checks of probabilities read from files, in slabs: a map of a CT fills most of the memory."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from mbls.predictions.stored import Stored
from mbls.runtime.errors import PredictionError

__all__ = ["checked", "in_memory_order", "quantization"]

SUM_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}  # those of the metrics
_HALF_STEP = 2.0**-12  # of float16 below 1
_SLAB = 1 << 20


def quantization(stored: Stored, channels: int) -> float:
    """Return how far a sum may be off by the rounding of the stored numbers; 0 for float32."""
    if stored.step:
        return channels * stored.step / 2
    return channels * _HALF_STEP if stored.dtype.itemsize == 2 else 0.0


def in_memory_order(probs: Tensor) -> Tensor:
    """Return a view of ``(C, *S)`` whose spatial axes are in the order of memory."""
    axes = sorted(range(1, probs.ndim), key=probs.stride, reverse=True)
    return probs.permute(0, *axes)


def checked(probs: Tensor, stored: Stored, case: str, *, regions: bool) -> tuple[Tensor, int]:
    """Return probabilities that are valid, and in how many voxels they were renormalized.

    Sums over the classes that are off by no more than the rounding of the stored numbers are made
    1; of float32 and float64, nothing is changed.

    Args:
        probs: Numbers ``(C, *S)``, float32 or float64, as they were read.
        stored: The file.
        case: Name of the case.
        regions: True if the channels are independent, and have no sum.

    Raises:
        PredictionError: NaN, negative numbers, numbers above 1, or another sum.
    """
    usual, rounding = SUM_TOLERANCE[probs.dtype], quantization(stored, len(probs))
    allowed = usual if rounding == 0 else max(rounding * 1.001, usual)
    changed = 0
    for part in _slabs(probs):
        low, high = (float(value) for value in torch.aminmax(part))
        if not math.isfinite(low) or not math.isfinite(high):
            raise PredictionError(
                f"{case}: {stored.name} has NaN or infinite numbers. They come from the network or "
                "its export: leave the case out, or predict it again."
            )
        if low < 0 or high > 1 + (0 if regions else allowed):
            raise PredictionError(_out_of_range(probs, stored, case))
        if regions:
            continue
        off = (part.sum(0) - 1).abs_()
        if float(off.amax()) > allowed:
            raise PredictionError(_sum_off(probs, stored, case, allowed))
        if rounding:
            changed += int((off > usual).sum())
    return (_renormalized(probs, usual), changed) if changed else (probs, 0)


def _slabs(probs: Tensor) -> Iterator[Tensor]:
    whole = in_memory_order(probs)
    rows = max(1, _SLAB // max(1, math.prod(whole.shape[2:])))
    for start in range(0, whole.shape[1], rows):
        yield whole[:, start : start + rows]


def _renormalized(probs: Tensor, usual: float) -> Tensor:
    """Divide by the sum in place where it is off: the array was made for this case."""
    for part in _slabs(probs):
        total = part.sum(0)
        part.div_(torch.where((total - 1).abs() > usual, total, 1))
    return probs


def _out_of_range(probs: Tensor, stored: Stored, case: str) -> str:
    low, high = (float(value) for value in torch.aminmax(probs))
    head = f"{case}: {stored.name} has numbers from {low:.6g} to {high:.6g}"
    if low >= -0.2 and high <= 1.2:
        return (
            f"{head}, and probabilities are from 0 to 1. Probabilities that were resampled by "
            "splines do this: resample the logits, or linearly, and export again."
        )
    total = float(next(_slabs(probs)).sum(0).mean())
    if low >= 0 and abs(total - 100) < 1:
        return f"{head}, which are percentages rather than probabilities. Divide them by 100."
    return (
        f"{head}: logits, not probabilities. Apply the softmax (of regions the sigmoid) before "
        "saving them."
    )


def _sum_off(probs: Tensor, stored: Stored, case: str, allowed: float) -> str:
    low, high, number = math.inf, -math.inf, 0
    for part in _slabs(probs):
        total = part.sum(0)
        low, high = min(low, float(total.amin())), max(high, float(total.amax()))
        number += int(((total - 1).abs() > allowed).sum())
    voxels = math.prod(probs.shape[1:])
    why = "are they independent regions, --regions (make: REGIONS), or is a class missing?"
    return (
        f"{case}: the {len(probs)} probabilities of a voxel in {stored.name} sum to {low:.6g} to "
        f"{high:.6g}, off from 1 by more than {allowed:.2g} ({stored.dtype}) in {number} of "
        f"{voxels} voxels: {why}"
    )
