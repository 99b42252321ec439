"""A loader that makes the next batch while the last one is used."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import torch
from torch.utils.data import DataLoader

from mbls.runtime.threads import compute_alone

__all__ = ["PrefetchLoader"]

_END = object()


class PrefetchLoader(DataLoader[Any]):
    """A loader that, without workers, makes the next batch in a thread during a step.

    A worker would send its batches from process to process, which takes the training process as
    long as making a small one. With workers it is torch's loader. The dataset must not draw from
    torch's or numpy's global generators, which the step uses at the same time.
    """

    def __iter__(self) -> Any:
        """Return torch's iterator, or one that is a batch ahead of its reader."""
        batches = super().__iter__()
        return batches if self.num_workers else self._prefetched(batches)

    def _prefetched(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield the batches; the sampler is first asked when the first batch is read.

        Lightning sets the sampler's epoch after it has asked for the iterator.
        """
        pending = self._thread.submit(next, batches, _END)
        while (batch := pending.result()) is not _END:
            pending = self._thread.submit(next, batches, _END)
            yield batch

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        """One thread for all epochs, in which torch takes one CPU: the others are the steps'."""
        threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(1, "loader", initializer=compute_alone)
        pool.submit(int).result()  # the thread has set its number
        torch.set_num_threads(threads)  # of threads to come as well
        return pool
