"""The loader that makes a batch ahead: same batches, no waiting, errors told where they are met."""

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from datamodules.case import DataError
from datamodules.loading.ahead import AheadLoader


class Squares(Dataset[Any]):
    """Squares; says when it makes one, how many threads torch has there, and fails where asked."""

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


def values(loader: AheadLoader) -> list[int]:
    return [int(batch) for batch in loader]


def test_the_batches_are_those_of_torchs_loader_epoch_by_epoch() -> None:
    loader = AheadLoader(Squares(), batch_size=None)
    assert values(loader) == values(loader) == [0, 1, 4, 9, 16, 25]


def test_the_next_batch_is_made_while_the_last_is_used_and_no_further_one() -> None:
    data = Squares()
    batches = iter(AheadLoader(data, batch_size=None))
    assert not data.made[0].wait(0.1)
    next(batches)
    assert data.made[1].wait(10)
    assert not data.made[2].wait(0.1)
    assert data.names == {"loader"}


def test_the_sampler_may_be_told_its_epoch_once_a_pass_was_asked_for() -> None:
    class Epochs:
        epoch = 0

        def __iter__(self) -> Iterator[int]:
            yield self.epoch

    loader = AheadLoader(Squares(), batch_size=None, sampler=Epochs())
    batches = iter(loader)
    time.sleep(0.1)
    loader.sampler.epoch = 3
    assert next(batches) == 9


def test_an_epoch_may_be_left_before_its_end() -> None:
    loader = AheadLoader(Squares(), batch_size=None)
    for batch in loader:
        if batch == 4:
            break
    assert values(loader) == [0, 1, 4, 9, 16, 25]


def test_an_error_is_met_at_its_batch_and_is_the_datasets_own() -> None:
    batches = iter(AheadLoader(Squares(fails_at=2), batch_size=None))
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(DataError):
        next(batches)


def test_making_batches_takes_one_of_torchs_threads_and_leaves_the_steps_theirs() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        data = Squares()
        values(AheadLoader(data, batch_size=None))
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
    loader = AheadLoader(Squares(), batch_size=None)
    next(iter(loader))
    mine = [thread for thread in threading.enumerate() if thread.name == "loader"]
    assert mine
    del loader
    gc.collect()
    for thread in mine:
        thread.join(10)
        assert not thread.is_alive()


HANGS = """
import sys, threading, time
from torch.utils.data import Dataset
from datamodules.loading import ahead

ahead.PATIENCE = 0.1


class Stuck(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index == 1:
            open(sys.argv[1]).read()  # a pipe that nobody writes to
        return index


batches = iter(loader := ahead.AheadLoader(Stuck(), batch_size=None))
print(int(next(batches)), flush=True)
"""


def test_a_read_that_hangs_does_not_keep_a_program_that_ends(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = subprocess.run(
        [sys.executable, "-c", HANGS, tmp_path / "pipe"], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr, done.returncode) == ("0\n", "", 0)


def test_a_program_that_ends_waits_for_the_batch_in_hand() -> None:
    """Python must not be gone while torch computes."""
    code = HANGS.replace("= 0.1", "= 30").replace(
        "open(sys.argv[1]).read()", "time.sleep(0.5); print('made', flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("0\nmade\n", 0)


def test_workers_load_where_they_are_asked_for() -> None:
    loader = AheadLoader(Squares(), batch_size=None, num_workers=1)
    assert values(loader) == [0, 1, 4, 9, 16, 25]
    assert "_thread" not in vars(loader)
