"""Who prepares the data: rank 0 once, whatever its environment was left with."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from mbls.commands.preparation import PREPARED, prepared_by_first


@pytest.mark.parametrize("process", [os.getpid, os.getppid])
def test_a_rank_knows_the_mark_of_its_job(process: Callable[[], int]) -> None:
    assert prepared_by_first({PREPARED: str(process())})


def test_a_rank_whose_first_is_gone_does_not_begin_anew() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert prepared_by_first({PREPARED: str(gone.pid)})


def test_the_mark_of_another_job_says_nothing() -> None:
    """A job that is started from within another one has a parent between them."""
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert not prepared_by_first({PREPARED: str(other.pid)})
    finally:
        other.communicate(b"\n")
    assert not prepared_by_first({})
