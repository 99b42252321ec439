"""Memory that batches are written into."""

import math
import threading
import weakref

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

_NUMPY = {torch.float32: np.float32, torch.int64: np.int64, torch.uint8: np.uint8}


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a tensor of any content: float32, int64 or uint8.

    numpy asks the system for huge pages, which torch does not: fresh memory of many megabytes is
    then there in half the time.
    """
    return torch.from_numpy(np.empty(shape, _NUMPY[dtype]))


class Scratch(threading.local):
    """Memory for the work on one sample: a buffer a name, as large as the largest ever asked for.

    Fresh memory costs as much as what fills it.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, np.ndarray] = {}
        self._views: dict[tuple[str, tuple[int, ...], str], np.ndarray] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Return the buffer ``name`` as an array; what was last returned of it is overwritten."""
        view = self._views.get((name, shape, dtype))
        if view is None:
            size = math.prod(shape) * np.dtype(dtype).itemsize
            if name not in self._buffers or len(self._buffers[name]) < size:
                self._buffers[name] = np.empty(size, np.uint8)
            view = self._buffers[name][:size].view(dtype).reshape(shape)
            self._views = {key: kept for key, kept in self._views.items() if key[0] != name}
            self._views[name, shape, dtype] = view
        return view


class Reused(threading.local):
    """Memory for tensors of one shape that are given away, taken again once nobody holds them.

    A copy of it, such as a worker's, has memory of its own.

    Args:
        most: How many arrays to keep; a consumer that hoards tensors gets fresh memory.
    """

    def __init__(self, most: int = 3) -> None:
        self._most = most
        self._kept: list[tuple[np.ndarray, weakref.ref[np.ndarray]]] = []

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return :func:`empty`, in memory whose last tensor is gone if there is some."""
        wanted = shape, np.dtype(_NUMPY[dtype])
        free = (array for array, held in self._kept if held() is None)
        found = next((array for array in free if (array.shape, array.dtype) == wanted), None)
        array = np.empty(*wanted) if found is None else found
        given = array.view()  # the tensor and all views of it hold this, and nothing else does
        others = (kept for kept in self._kept if kept[0] is not array)
        self._kept = [(array, weakref.ref(given)), *others][: self._most]
        return torch.from_numpy(given)

    def to_send(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return :meth:`empty`, in a worker fresh memory that is shared with the main process.

        Otherwise the worker would copy it there.
        """
        if get_worker_info() is None:
            return self.empty(shape, dtype)
        count = int(np.prod(shape))
        storage = torch.UntypedStorage._new_shared(max(count * dtype.itemsize, 1))
        return torch.empty(0, dtype=dtype).set_(storage, 0, shape)  # type: ignore[call-overload]

    def __reduce__(self) -> tuple[type["Reused"], tuple[int]]:
        return Reused, (self._most,)
