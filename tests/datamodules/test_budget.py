"""The memory that cases share when many are read at once."""

import mmap
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from datamodules.budget import MemoryBudget, free_memory, return_memory
from datamodules.cache import preparation
from datamodules.cache.preparation import Preparer
from datamodules.parallel import in_parallel

MEMINFO = "MemTotal: 9000 kB\nMemFree: 100 kB\nMemAvailable:    4000 kB\n"


class Counter:
    """Counts how many threads are within it at once."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.02)
        with self._lock:
            self.now -= 1


@pytest.mark.parametrize(
    ("size", "wanted", "at_once"),
    [(100, 30, 3), (100, 100, 1), (100, 1000, 1), (100, 0, 8), (0, 30, 1)],
)
def test_no_more_at_once_than_fit(size: int, wanted: int, at_once: int) -> None:
    told: list[int] = []
    budget, counter = MemoryBudget(size, on_wait=told.append), Counter()

    def work(_: int) -> None:
        with budget.take(wanted):
            counter()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(16)))
    assert counter.most == at_once
    assert told == ([wanted] if at_once < 8 else [])


def test_what_an_error_held_is_free_again() -> None:
    budget = MemoryBudget(10, on_wait=print)
    with pytest.raises(KeyError), budget.take(10):
        raise KeyError
    with budget.take(10):
        pass


def test_who_waits_does_not_begin_once_another_failed() -> None:
    """Ctrl-C, or a full disk, does not wait for every case that had a thread."""
    all_there, ending, begun = threading.Barrier(4), threading.Event(), []
    budget = MemoryBudget(1, on_wait=lambda _: None)

    def work(number: int) -> None:
        all_there.wait(10)
        with budget.take(1):
            begun.append(number)
            if len(begun) == 1:
                raise KeyError
            assert ending.wait(10)

    def end() -> None:
        budget.close()
        ending.set()

    with pytest.raises(KeyError):
        list(in_parallel(work, range(4), workers=4, description="", progress=False, on_end=end))
    assert len(begun) <= 2


def system(root: Path, groups: str, files: Mapping[str, Mapping[str, str]]) -> Path:
    """A system's ``/proc`` and ``/sys`` under ``root``."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(MEMINFO)
    (root / "proc/self/cgroup").write_text(groups)
    for group, content in files.items():
        folder = root / "sys/fs/cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in content.items():
            (folder / name).write_text(text)
    return root


def second(limit: str, used: int, droppable: int = 0) -> dict[str, str]:
    return {
        "memory.max": f"{limit}\n",
        "memory.current": f"{used}\n",
        "memory.stat": f"anon 5\ninactive_file {droppable}\nactive_file 7\n",
    }


@pytest.mark.parametrize(
    ("groups", "files", "free"),
    [
        ("0::/\n", {}, 4000 * 1024),
        ("0::/\n", {"": second("max", 10)}, 4000 * 1024),
        ("0::/\n", {"": second("5000", 3000, 400)}, 2400),
        ("0::/job/step\n", {"job": second("5000", 4000), "job/step": second("max", 9)}, 1000),
        ("0::/not/mounted\n", {"": second("5000", 4990)}, 10),
        ("0::/\n", {"": second("5000", 6000)}, 0),
        (
            "3:cpu,cpuacct:/job\n2:memory:/job\n",
            {
                "memory/job": {
                    "memory.limit_in_bytes": "900",
                    "memory.usage_in_bytes": "600",
                    "memory.stat": "inactive_file 1\ntotal_inactive_file 50\n",
                }
            },
            350,
        ),
    ],
    ids=["no group", "no limit", "container", "job above", "outside", "over", "version 1"],
)
def test_free_memory(
    tmp_path: Path, groups: str, files: Mapping[str, Mapping[str, str]], free: int
) -> None:
    assert free_memory(system(tmp_path, groups, files)) == free


def test_free_memory_of_this_machine(tmp_path: Path) -> None:
    assert 0 < free_memory() < 1 << 50
    assert free_memory(tmp_path) >= free_memory()  # a system without /proc


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_memory_goes_back() -> None:
    """A hole below a block that is in use, which glibc would keep."""

    def held() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    blocks = [b"x" * 100_000 for _ in range(1000)]  # too small to be mapped one by one
    last = blocks.pop()
    before = held()
    blocks.clear()
    return_memory()
    assert before - held() > 50_000_000
    assert last


@pytest.mark.parametrize(("held", "at_once"), [(2.5, 2), (0.1, 1)])
def test_cases_wait_for_memory(
    module: Callable,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    held: float,
    at_once: int,
) -> None:
    built, counter = module(prepare_workers=8), Counter()
    size = 20 * 24 * 4 * (2 * 4 + 28)  # one modality, no posterior, the native grid
    monkeypatch.setattr(preparation, "free_memory", lambda: 2 * held * size)
    read = Preparer.read

    def slowly(*args: object) -> object:
        counter()
        return read(*args)

    monkeypatch.setattr(Preparer, "read", slowly)
    built.prepare(progress=False)
    assert counter.most == at_once
    assert capfd.readouterr().err.count("fewer are read at a") == 1
    assert built.check(progress=False) == []
    assert counter.most == at_once
