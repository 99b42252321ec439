"""Cases in parallel: as many as CPUs, each in a thread of its own."""

import threading

import pytest
import torch

from datamodules import parallel
from datamodules.parallel import in_parallel


def test_a_case_has_one_of_torchs_threads_and_the_process_keeps_its_own() -> None:
    before = torch.get_num_threads()
    options = {"description": "", "progress": False}
    try:
        torch.set_num_threads(3)
        found = in_parallel(lambda _: torch.get_num_threads(), range(4), workers=2, **options)
        assert {number for _, number in found} == {1}
        with pytest.raises(ZeroDivisionError):
            list(in_parallel(lambda number: 1 // number, range(4), workers=2, **options))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_as_many_cases_at_once_as_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cpus", lambda: 3)
    together = threading.Barrier(3)
    found = in_parallel(
        lambda _: together.wait(10), range(3), workers=None, description="", progress=False
    )
    assert sorted(number for _, number in found) == [0, 1, 2]
