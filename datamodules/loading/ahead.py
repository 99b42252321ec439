"""A loader that never lets a step wait for a batch that could have been made before."""

import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import cached_property
from queue import SimpleQueue
from typing import Any

import torch
from torch.utils.data import DataLoader

__all__ = ["AheadLoader"]

_END = object()
_PATIENCE = 5.0  # seconds for the batch that is being made when the process ends


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
    def _thread(self) -> "_Thread":
        """One thread for all epochs, whose torch takes one processor; the others are the steps'."""
        thread = _Thread()
        threads = torch.get_num_threads()
        thread.submit(torch.get_num_threads).result()  # or it would take the number set last
        thread.submit(torch.set_num_threads, 1).result()
        torch.set_num_threads(threads)  # of threads to come too
        return thread


class _Thread:
    """A thread that does one task after the other, until nobody holds this or the process ends.

    Unlike an executor's it keeps no process alive that has ended but for it: a read from a server
    that is gone may hang for ever.
    """

    def __init__(self) -> None:
        self._tasks: SimpleQueue[Any] = SimpleQueue()
        thread = threading.Thread(target=_work, args=(self._tasks,), name="loader", daemon=True)
        thread.start()
        weakref.finalize(self, _end, thread, self._tasks)  # at exit too

    def submit(self, work: Callable[..., Any], *args: Any) -> "Future[Any]":
        """Return the result to come of ``work(*args)``."""
        coming: Future[Any] = Future()
        self._tasks.put((coming, work, args))
        return coming


def _work(tasks: "SimpleQueue[Any]") -> None:
    while (task := tasks.get()) is not None:
        coming, work, args = task
        try:
            coming.set_result(work(*args))
        except BaseException as error:  # whoever asked for the result raises it
            coming.set_exception(error)
        del task, coming, work, args  # the batch is the reader's alone


def _end(thread: threading.Thread, tasks: "SimpleQueue[Any]") -> None:
    tasks.put(None)
    if thread is not threading.current_thread():
        thread.join(_PATIENCE)


class _Ahead(Iterator[Any]):
    """One pass; as in torch's, nothing is asked of the sampler before its first batch is read.

    Lightning tells the sampler the epoch after it has asked for the pass.
    """

    def __init__(self, batches: Iterator[Any], thread: _Thread) -> None:
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
