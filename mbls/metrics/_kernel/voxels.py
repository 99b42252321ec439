"""From the tensors a metric is called with to ``(C, L)`` pieces of a size that fits the cache."""

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from mbls.runtime.threads import in_threads

Result = TypeVar("Result")

MAX_VOXELS = (1 << 15) - (1 << 6)
"""Voxels of a piece: enough to be worth an operation, few enough for the cache, and fewer than
torch shares out to threads."""
PIECE_VALUES = 1 << 18
SLAB_VOXELS = 1 << 20
"""Voxels of a slab, in which whole volumes are worked on one part after the other."""
# A row of softmax outputs sums to one up to the rounding of its entries.
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
        raise ValueError(f"num_classes must be at least 2 (background counts), got {num_classes}.")
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
            f"{ignore_index}. Calibration of labelled foreground alone is region='label'; overlap "
            "and distances average the foreground classes anyway."
        )
    return ignore_index


def check_shapes(probs: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Check what a metric is called with; return the target as ``(N, *S)``.

    Args:
        probs: Probabilities ``(N, C, *S)``, float16, bfloat16, float32 or float64.
        target: Labels ``(N, *S)`` or ``(N, 1, *S)``, integers or whole floats.
        num_classes: C.

    Raises:
        TypeError: If either is no tensor, the probabilities are not floating point, or the target
            is boolean or complex.
        ValueError: If the shapes do not match.
    """
    for name, given in {"probs": probs, "target": target}.items():
        if not isinstance(given, Tensor):
            raise TypeError(
                f"{name} must be a torch.Tensor, got {type(given).__module__}."
                f"{type(given).__name__}; torch.as_tensor({name}) makes one of a numpy array."
            )
    if probs.dtype not in SUM_TOLERANCE:
        raise TypeError(
            f"probs must be (N, {num_classes}, *S) probabilities in float16, bfloat16, float32 or "
            f"float64, got {probs.dtype} {tuple(probs.shape)}. A label map has one channel a class "
            f"by torch.nn.functional.one_hot(map, {num_classes}).movedim(-1, 1).float()."
        )
    if target.dtype == torch.bool or target.is_complex():
        raise TypeError(
            f"target must hold class numbers, got {target.dtype}; convert it with .long()."
        )
    if probs.ndim < 2 or probs.shape[1] != num_classes:
        raise ValueError(
            f"probs must be (N, {num_classes}, *S): one channel for each of the {num_classes} "
            f"classes on axis 1, got {tuple(probs.shape)}."
        )
    expected = (probs.shape[0], *probs.shape[2:])
    if target.shape == (expected[0], 1, *expected[1:]):
        target = target.squeeze(1)
    if tuple(target.shape) != expected:
        raise ValueError(
            f"target must be {expected} or {(expected[0], 1, *expected[1:])} to go with probs "
            f"{tuple(probs.shape)}, got {tuple(target.shape)}."
        )
    return target


def check_index(index: Tensor | None, batch: int, num_cases: int | None) -> list[int] | None:
    """Return the case number of each batch entry; None where cases are not kept apart.

    Raises:
        ValueError: If an index is missing, of another length than the batch, or out of range.
    """
    if num_cases is None:
        return None
    if index is None:
        raise ValueError(
            f"This metric keeps {num_cases} cases apart: pass index, the (N,) number of each "
            "case, or leave num_cases out."
        )
    numbers = [int(i) for i in torch.as_tensor(index).reshape(-1).tolist()]
    if len(numbers) != batch:
        raise ValueError(f"index must name one case for each of {batch} entries, got {numbers}.")
    if any(not 0 <= i < num_cases for i in numbers):
        raise ValueError(f"index must lie in 0..{num_cases - 1}, got {numbers}.")
    return numbers


def slabs(shape: Sequence[int]) -> Iterator[Any]:
    """Yield indices that cut a volume ``S`` along its first axis.

    What is computed for each voxel alone takes the memory of a slab then, not of the volume.
    """
    if not shape:
        yield ...
        return
    rows = max(1, SLAB_VOXELS // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], rows):
        yield slice(start, start + rows)


def count_pieces(
    tensors: Sequence[Tensor],
    num_classes: int,
    count: Callable[[Iterator[tuple[Tensor, ...]]], Result],
) -> list[Result]:
    """Return what ``count`` makes of the pieces: on the CPU each of torch's threads counts some.

    Threads meet at the end alone. If they shared out each operation on a piece, they would meet a
    hundred times a piece, and wait each time for one that another process keeps from its processor.

    Args:
        tensors: See :func:`pieces`.
        num_classes: See :func:`pieces`.
        count: Goes through its pieces; its results must be sums that do not depend on which.
    """
    first, todo = tensors[0], _Shared(pieces(tensors, num_classes))
    whole_pieces = first.shape[0] * first[0, 0].numel() // _length(num_classes) if len(first) else 0
    threads = min(torch.get_num_threads(), whole_pieces) if first.device.type == "cpu" else 1
    if threads <= 1:
        return [count(todo)]
    inference = torch.is_inference_mode_enabled()  # a thread's own setting

    def work() -> Result:
        with torch.inference_mode(inference):
            return count(todo)

    return in_threads(threads, work)


class _Shared(Iterator[Result]):
    """An iterator that several threads may ask."""

    def __init__(self, items: Iterator[Result]) -> None:
        self._items, self._lock = items, threading.Lock()

    def __next__(self) -> Result:
        with self._lock:
            return next(self._items)


def _length(num_classes: int) -> int:
    return min(MAX_VOXELS, max(1024, PIECE_VALUES // num_classes))


def pieces(tensors: Sequence[Tensor], num_classes: int) -> Iterator[tuple[Tensor, ...]]:
    """Cut matching ``(N, c, *S)`` tensors into ``(c, L)`` pieces without copying a whole volume.

    Args:
        tensors: Tensors that agree in ``N`` and ``S``; ``c`` may differ.
        num_classes: The largest ``c``, which sets the length of a piece.

    Yields:
        One ``(c, L)`` piece of each tensor, ``L`` at most :data:`MAX_VOXELS`. The order of voxels
        is that of memory, not of space: sums do not depend on it.
    """
    length = _length(num_classes)
    first = tensors[0]
    voxels = first[0, 0].numel() if first.shape[0] else 0
    if voxels == 0:
        return
    if voxels * 4 <= length:  # many small entries: a few at once
        step = length // voxels
        for start in range(0, first.shape[0], step):
            yield tuple(
                t[start : start + step].transpose(0, 1).reshape(t.shape[1], -1) for t in tensors
            )
        return
    for entry in range(first.shape[0]):
        yield from _cut([t[entry] for t in tensors], length)


def _cut(tensors: Sequence[Tensor], length: int) -> Iterator[tuple[Tensor, ...]]:
    if all(t.is_contiguous() for t in tensors) or tensors[0][0].numel() <= length:
        flat = [t.reshape(t.shape[0], -1) for t in tensors]
        for start in range(0, flat[0].shape[1], length):
            yield tuple(t[:, start : start + length] for t in flat)
        return
    for position in range(tensors[0].shape[1]):  # permuted in memory: slab by slab
        yield from _cut([t[:, position] for t in tensors], length)
