"""The loader that prefetches a batch: same batches, no waiting, errors raised at their batch."""

import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from datamodules.case import DataError
from datamodules.loading.prefetch import PrefetchLoader


class Squares(Dataset[Any]):
    """Squares; records when it makes one and torch's threads there, and fails at one index."""

    def __init__(self, fails_at: int = -1) -> None:
        self.fails_at = fails_at
        self.made = [threading.Event() for _ in range(6)]
        self.threads: set[int] = set()
        self.names: set[str] = set()

    def __len__(self) -> int:
        return len(self.made)

    def __getitem__(self, index: int) -> int:
        if index == self.fails_at:
            raise DataError([])
        self.threads.add(torch.get_num_threads())
        self.names.add(threading.current_thread().name)
        self.made[index].set()
        return index**2


def values(loader: PrefetchLoader) -> list[int]:
    return [int(batch) for batch in loader]


def test_the_batches_are_those_of_torchs_loader_epoch_by_epoch() -> None:
    loader = PrefetchLoader(Squares(), batch_size=None)
    assert values(loader) == values(loader) == [0, 1, 4, 9, 16, 25]


def test_the_next_batch_is_made_while_the_last_is_used_and_no_further_one() -> None:
    data = Squares()
    batches = iter(PrefetchLoader(data, batch_size=None))
    assert not data.made[0].wait(0.1)
    next(batches)
    assert data.made[1].wait(10)
    assert not data.made[2].wait(0.1)
    assert data.names == {"loader_0"}


def test_the_sampler_may_get_its_epoch_after_a_pass_was_started() -> None:
    class Epochs:
        epoch = 0

        def __iter__(self) -> Iterator[int]:
            yield self.epoch

    loader = PrefetchLoader(Squares(), batch_size=None, sampler=Epochs())
    batches = iter(loader)
    time.sleep(0.1)
    loader.sampler.epoch = 3
    assert next(batches) == 9


def test_an_epoch_may_be_left_before_its_end() -> None:
    loader = PrefetchLoader(Squares(), batch_size=None)
    for batch in loader:
        if batch == 4:
            break
    assert values(loader) == [0, 1, 4, 9, 16, 25]


def test_an_error_is_met_at_its_batch_and_is_the_datasets_own() -> None:
    batches = iter(PrefetchLoader(Squares(fails_at=2), batch_size=None))
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(DataError):
        next(batches)


def test_making_batches_takes_one_of_torchs_threads_and_leaves_the_steps_theirs() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        data = Squares()
        values(PrefetchLoader(data, batch_size=None))
        assert data.threads == {1}
        assert torch.get_num_threads() == 2
        data.threads.clear()
        another = threading.Thread(target=data.__getitem__, args=(0,))
        another.start()
        another.join()
        assert data.threads == {2}
    finally:
        torch.set_num_threads(before)


def test_the_thread_ends_with_the_loader() -> None:
    before = set(threading.enumerate())
    loader = PrefetchLoader(Squares(), batch_size=None)
    next(iter(loader))
    mine = [thread for thread in set(threading.enumerate()) - before if thread.name == "loader_0"]
    assert mine
    del loader
    gc.collect()
    for thread in mine:
        thread.join(10)
        assert not thread.is_alive()


def test_workers_load_where_there_are_some() -> None:
    loader = PrefetchLoader(Squares(), batch_size=None, num_workers=1)
    assert values(loader) == [0, 1, 4, 9, 16, 25]
    assert "_thread" not in vars(loader)
