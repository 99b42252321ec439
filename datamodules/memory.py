"""Memory that batches are written into."""

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


def empty_to_send(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return :func:`empty`, in a worker in memory that is shared with the main process.

    Otherwise the worker would copy it there.
    """
    if get_worker_info() is None:
        return empty(shape, dtype)
    count = int(np.prod(shape))
    storage = torch.UntypedStorage._new_shared(max(count * dtype.itemsize, 1))
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape)  # type: ignore[call-overload]
