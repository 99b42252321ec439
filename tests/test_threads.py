"""Threads: their number by the CPUs of the process, and the user's settings before ours."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from mbls.runtime import threads
from mbls.runtime.threads import (
    NUMBERS,
    SPIN,
    WAITING,
    cpus,
    in_threads,
    shared_environment,
    threads_in_force,
)
from tests.processes import ROOT

SLURM = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen CPUs in sight, and no number of threads in the environment."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(threads, "_given", {})
    for name in NUMBERS + WAITING + SLURM:
        monkeypatch.setenv(name, "")  # so that what a test sets is gone after it
        monkeypatch.delenv(name)


def system(root: Path, groups: str, files: Mapping[str, str]) -> Path:
    """A system's ``/proc`` and ``/sys`` under ``root``."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {}, 16),
        ("0::/\n", {"cpu.max": "max 100000"}, 16),
        ("0::/\n", {"cpu.max": "400000 100000"}, 4),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/\n", {"cpu.max": "250000 100000"}, 3),
        ("0::/\n", {"cpu.max": "6400000 100000"}, 16),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2),
        ("0::/not/mounted\n", {"cpu.max": "300000 100000"}, 3),
        (
            "4:memory:/a\n3:cpu,cpuacct:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "500000", "cpu/a/cpu.cfs_period_us": "100000"},
            5,
        ),
        (
            "3:cpuacct,cpu:/a\n0::/\n",
            {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"},
            16,
        ),
    ],
    ids=["no group", "no quota", "container", "half", "rounded up", "more than there are",
         "group above", "outside", "version 1", "version 1, no quota"],
)  # fmt: skip
def test_cpus(tmp_path: Path, groups: str, files: Mapping[str, str], expected: int) -> None:
    assert cpus(system(tmp_path, groups, files)) == expected


@pytest.mark.parametrize(
    ("slurm", "expected"),
    [({"SLURM_CPUS_PER_TASK": "6", "SLURM_CPUS_ON_NODE": "12"}, 6),
     ({"SLURM_CPUS_ON_NODE": "12"}, 12), ({"SLURM_CPUS_PER_TASK": "99"}, 16),
     ({"SLURM_CPUS_PER_TASK": ""}, 16)],
)  # fmt: skip
def test_cpus_of_a_slurm_task(
    tmp_path: Path, slurm: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    assert cpus(tmp_path) == expected


def test_cpus_are_those_of_the_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7})
    assert cpus(tmp_path) == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert cpus(tmp_path) == 8


STARTED = """
import json, os, sys
from mbls import cli
from mbls.runtime import threads
from mbls.cli import main

def command(args):
    assert "torch" not in sys.modules
    print(json.dumps([os.environ.get(name) for name in threads.NUMBERS + threads.WAITING]))
    import torch
    print(torch.get_num_threads())

sys.modules["probe"] = type(sys)("probe")
sys.modules["probe"].main = command
cli.COMMANDS["probe"] = ("probe", "")
threads.cpus = lambda: 1
main(["probe"])
"""


def test_command_sets_threads_before_torch_is_loaded() -> None:
    """One, for of more torch may take fewer: as many as there are cores."""
    env = {name: value for name, value in os.environ.items() if name not in NUMBERS + WAITING}
    command = [sys.executable, "-c", STARTED]
    env |= {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300, check=True)
    variables, number = done.stdout.splitlines()
    assert json.loads(variables) == ["1", None, None, *SPIN.values()]
    assert number == "1"


@pytest.mark.parametrize(
    ("stated", "variables"),
    [
        ({"OMP_NUM_THREADS": "1"}, ["1", None, None, *SPIN.values()]),
        ({"MKL_NUM_THREADS": "1"}, [None, "1", None, *SPIN.values()]),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, ["9", None, "PASSIVE", None, None]),
        ({"GOMP_SPINCOUNT": "7"}, ["9", None, None, "7", None]),
        ({"KMP_BLOCKTIME": "0"}, ["9", None, None, None, "0"]),
    ],
)
def test_variables_of_the_user_are_kept(
    stated: dict[str, str], variables: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in stated.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(threads, "cpus", lambda: 9)
    monkeypatch.delitem(sys.modules, "torch")
    threads.set_defaults()
    assert [os.environ.get(name) for name in NUMBERS + WAITING] == variables


def test_nothing_is_set_once_torch_is_loaded() -> None:
    threads.set_defaults()
    assert not set(os.environ) & set(NUMBERS + WAITING)


def test_ranks_and_jobs_share_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cpus", lambda: 7)
    monkeypatch.delitem(sys.modules, "torch")
    threads.set_defaults()
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert shared_environment(3)["OMP_NUM_THREADS"] == "2"
    assert shared_environment(9)["OMP_NUM_THREADS"] == "1"
    assert not set(shared_environment(1)) & set(NUMBERS + WAITING)  # it finds out itself
    before = torch.get_num_threads()
    try:
        for _ in range(2):  # a training, then its test
            threads.share_cpus(2)
            assert (os.environ["OMP_NUM_THREADS"], torch.get_num_threads()) == ("3", 3)
            assert threads_in_force() == {
                "threads": 3,
                "threads_set_by": {"OMP_NUM_THREADS": "3", **SPIN},
                "cpus": {"seen": os.cpu_count(), "allowed": 7},
            }
    finally:
        torch.set_num_threads(before)


def test_ranks_and_jobs_keep_the_users_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    before = torch.get_num_threads()
    threads.share_cpus(2)
    assert torch.get_num_threads() == before
    assert shared_environment(2)["OMP_NUM_THREADS"] == os.environ["OMP_NUM_THREADS"] == "5"


def test_in_threads_leaves_the_number_of_torch_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert in_threads(2, torch.get_num_threads) == [1, 1]
        with pytest.raises(ZeroDivisionError):
            in_threads(2, lambda: 1 // 0)
        assert torch.get_num_threads() == 3
        assert in_new_thread(torch.get_num_threads) == 3
    finally:
        torch.set_num_threads(before)


def in_new_thread(work: Callable[[], int]) -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()
