"""From the tensors a metric is called with to ``(C, L)`` pieces of a size that fits the cache."""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from mbls.runtime.threads import in_threads

Result = TypeVar("Result")

MAX_VOXELS = (1 << 16) - (1 << 7)
"""Voxels of a piece: operations long enough that threads seldom wait for Python's lock, and no
more voxels than a packed sum holds (:data:`mbls.metrics._kernel.fixed_point.MAX_PACKED`)."""
PIECE_VALUES = 1 << 18
"""Probabilities of a piece, so that many classes take no more of the cache."""
SLAB_VOXELS = 1 << 20
"""Voxels of a slab, in which whole volumes are worked on one part after the other."""


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
    if first.device.type != "cpu":
        return [count(todo)]
    voxels = first.shape[0] * math.prod(first.shape[2:])
    inference = torch.is_inference_mode_enabled()  # a thread's own setting

    def work() -> Result:
        with torch.inference_mode(inference):
            return count(todo)

    return in_threads(min(torch.get_num_threads(), -(-voxels // _length(num_classes))), work)


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
