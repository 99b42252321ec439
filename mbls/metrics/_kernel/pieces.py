"""Split the inputs of a metric into ``(C, L)`` pieces that fit the cache."""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from mbls.runtime.threads import in_threads

Result = TypeVar("Result")

MAX_VOXELS = (1 << 16) - (1 << 7)
"""Maximum voxels of a piece: large enough that threads seldom wait for the GIL, and at most the
summands of a packed sum (:data:`mbls.metrics._kernel.fixed_point.MAX_PACKED`)."""
PIECE_VALUES = 1 << 18
"""Maximum probabilities of a piece, for many classes."""
SLAB_VOXELS = 1 << 20
"""Voxels of a slab of a volume."""


def slabs(shape: Sequence[int]) -> Iterator[Any]:
    """Yield indices that split a volume ``S`` along its first axis, to limit temporary memory."""
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
    """Return the results of ``count`` over the pieces, on the CPU one per thread.

    Threads only synchronize at the end. With a parallel loop in each operation they would do so a
    hundred times per piece, and wait each time for a thread that another process has preempted.

    Args:
        tensors: See :func:`pieces`.
        num_classes: See :func:`pieces`.
        count: Consumes pieces and returns sums; the total must not depend on the assignment.
    """
    first, todo = tensors[0], _Shared(pieces(tensors, num_classes))
    if first.device.type != "cpu":
        return [count(todo)]
    voxels = first.shape[0] * math.prod(first.shape[2:])
    inference = torch.is_inference_mode_enabled()  # a thread's own setting

    def work() -> Result:
        with torch.inference_mode(inference):
            return count(todo)

    return in_threads(min(torch.get_num_threads(), -(-voxels // _length(num_classes))), work)


class _Shared(Iterator[Result]):
    """A thread-safe iterator."""

    def __init__(self, items: Iterator[Result]) -> None:
        self._items, self._lock = items, threading.Lock()

    def __next__(self) -> Result:
        with self._lock:
            return next(self._items)


def _length(num_classes: int) -> int:
    return min(MAX_VOXELS, max(1024, PIECE_VALUES // num_classes))


def pieces(tensors: Sequence[Tensor], num_classes: int) -> Iterator[tuple[Tensor, ...]]:
    """Split matching ``(N, c, *S)`` tensors into ``(c, L)`` pieces without copying a volume.

    Args:
        tensors: Tensors that agree in ``N`` and ``S``; ``c`` may differ.
        num_classes: The largest ``c``, which sets the length of a piece.

    Yields:
        One ``(c, L)`` piece of each tensor, ``L`` at most :data:`MAX_VOXELS`, in memory order.
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
        axes = memory_order(first[entry])
        yield from _cut([t[entry].permute(0, *axes) for t in tensors], length)


def memory_order(volume: Tensor) -> list[int]:
    """Return the spatial axes of ``(c, *S)`` in the order of memory, the slowest first.

    Volumes read from files are often transposed views; their voxels are counted as they lie.
    """
    return sorted(range(1, volume.ndim), key=volume.stride, reverse=True)


def _cut(tensors: Sequence[Tensor], length: int) -> Iterator[tuple[Tensor, ...]]:
    if all(t.is_contiguous() for t in tensors) or tensors[0][0].numel() <= length:
        flat = [t.reshape(t.shape[0], -1) for t in tensors]
        for start in range(0, flat[0].shape[1], length):
            yield tuple(t[:, start : start + length] for t in flat)
        return
    plane = math.prod(tensors[0].shape[2:])
    if plane > length:
        for position in range(tensors[0].shape[1]):
            yield from _cut([t[:, position] for t in tensors], length)
        return
    rows = length // max(1, plane)
    for start in range(0, tensors[0].shape[1], rows):  # copies of no more than a piece
        yield tuple(t[:, start : start + rows].reshape(t.shape[0], -1) for t in tensors)
