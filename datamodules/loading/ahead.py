"""A loader that never lets a step wait for a batch that could have been made before."""

import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from functools import cached_property
from queue import SimpleQueue
from typing import Any

import torch
from torch.utils.data import DataLoader

from mbls.runtime.threads import compute_alone

__all__ = ["AheadLoader"]

PATIENCE = 5.0  # seconds
_END = object()
_Asked = SimpleQueue[tuple[Future[Any], Iterator[Any]] | None]


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
    def _thread(self) -> "_LoaderThread":
        """One thread for all epochs, whose torch takes one processor; the others are the steps'."""
        return _LoaderThread()


class _LoaderThread:
    """A thread that makes batches, until neither the loader nor a pass over it is there.

    It is a daemon: a program that has ended waits for the batch in hand, for which Python must be
    there, but no longer than PATIENCE, since a network disk may never hand out a file.
    """

    def __init__(self) -> None:
        self._asked: _Asked = SimpleQueue()
        thread = threading.Thread(target=_serve, args=(self._asked,), name="loader", daemon=True)
        threads = torch.get_num_threads()
        thread.start()
        self.next(iter([None])).result()  # it has set its number
        torch.set_num_threads(threads)  # of threads to come too
        weakref.finalize(self, _end, self._asked, thread)

    def next(self, batches: Iterator[Any]) -> "Future[Any]":
        """Ask for the next of the batches, or _END."""
        future: Future[Any] = Future()
        self._asked.put((future, batches))
        return future


def _serve(asked: _Asked) -> None:
    compute_alone()
    for future, batches in iter(asked.get, None):
        try:
            future.set_result(next(batches, _END))
        except BaseException as error:
            future.set_exception(error)
        del future, batches  # or what was asked last would live until more is


def _end(asked: _Asked, thread: threading.Thread) -> None:
    asked.put(None)
    if thread is not threading.current_thread():
        thread.join(PATIENCE)


class _Ahead(Iterator[Any]):
    """One pass; as in torch's, nothing is asked of the sampler before its first batch is read.

    Lightning tells the sampler the epoch after it has asked for the pass.
    """

    def __init__(self, batches: Iterator[Any], thread: _LoaderThread) -> None:
        self._batches, self._thread = batches, thread
        self._coming: Future[Any] | None = None

    def __next__(self) -> Any:
        if self._coming is None:
            self._coming = self._thread.next(self._batches)
        batch = self._coming.result()
        if batch is _END:
            raise StopIteration
        self._coming = self._thread.next(self._batches)
        return batch
