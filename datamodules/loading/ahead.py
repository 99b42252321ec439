"""A loader that never lets a step wait for a batch that could have been made before."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any

import torch
from torch.utils.data import DataLoader

__all__ = ["AheadLoader"]

_END = object()


class AheadLoader(DataLoader[Any]):
    """A loader that, without workers, makes the next batch in a thread while the last one is used.

    A worker would send its batches from process to process, which takes the training process as
    long as making a small one. With workers it is torch's loader. Whatever draws at random in the
    dataset must not look at torch's or numpy's global generators.
    """

    def __iter__(self) -> Any:
        """Return torch's iterator, or one that is a batch ahead of its reader."""
        batches = super().__iter__()
        return batches if self.num_workers else _Ahead(batches, self._thread)

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        """One thread for all epochs, whose torch takes one processor; the others are the steps'."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="loader")
        threads = torch.get_num_threads()
        thread.submit(torch.get_num_threads).result()  # or it would take the number set last
        thread.submit(torch.set_num_threads, 1).result()
        torch.set_num_threads(threads)  # of threads to come too
        return thread


class _Ahead(Iterator[Any]):
    """One pass; as in torch's, nothing is asked of the sampler before its first batch is read.

    Lightning tells the sampler the epoch after it has asked for the pass.
    """

    def __init__(self, batches: Iterator[Any], thread: ThreadPoolExecutor) -> None:
        self._batches, self._thread = batches, thread
        self._coming: Future[Any] | None = None

    def __next__(self) -> Any:
        if self._coming is None:
            self._coming = self._ask()
        batch = self._coming.result()
        if batch is _END:
            raise StopIteration
        self._coming = self._ask()
        return batch

    def _ask(self) -> Future[Any]:
        return self._thread.submit(next, self._batches, _END)
