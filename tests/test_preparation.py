"""Who prepares the data: rank 0 once, whatever its environment was left with."""

import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mbls import cli
from mbls.config.preparation import mark_of, prepare_once, prepared_by_first
from mbls.runtime.ranks import PREPARED


@pytest.mark.parametrize("process", [os.getpid, os.getppid])
def test_a_rank_knows_the_mark_of_its_job(process: Callable[[], int]) -> None:
    assert prepared_by_first({PREPARED: mark_of(process())})


def test_a_rank_whose_first_is_gone_does_not_begin_anew() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    mark = mark_of(gone.pid)
    gone.wait()
    assert prepared_by_first({PREPARED: mark})


def test_a_process_that_got_the_id_of_one_that_is_gone_is_not_it() -> None:
    host, process, began = mark_of(os.getpid()).split(" ")
    assert mark_of(os.getpid()) != f"{host} {process} {int(began) - 1}"
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert not prepared_by_first({PREPARED: mark_of(other.pid)})
        earlier = f"{host} {other.pid} {int(began) - 1}"
        assert prepared_by_first({PREPARED: earlier})  # of this id, and gone
    finally:
        other.communicate(b"\n")


def test_the_mark_of_another_job_says_nothing() -> None:
    """A job that is started from within another one has a parent between them."""
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert not prepared_by_first({PREPARED: mark_of(other.pid)})
    finally:
        other.communicate(b"\n")
    for mark in ("", "3999999", "elsewhere 3999999 7", f"elsewhere {os.getppid()} 7"):
        assert not prepared_by_first({PREPARED: mark})
    assert not prepared_by_first({PREPARED: mark_of(os.getpid()), "RANK": "1"})  # torchrun's
    assert not prepared_by_first({})


def test_the_environment_of_what_comes_after_a_run_has_no_mark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A driver in Python that trains, and then starts torchrun."""
    prepared: list[int] = []

    def run(command: str, args: list[str]) -> int:
        trainer: Any = SimpleNamespace(world_size=1, num_devices=1)
        prepare_once(trainer, lambda: prepared.append(1))
        assert os.environ[PREPARED] == mark_of(os.getpid())
        return 0

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(cli, "run", run)
    assert cli.main(["fit"]) == cli.main(["fit"]) == 0
    assert PREPARED not in os.environ
    assert len(prepared) == 2
