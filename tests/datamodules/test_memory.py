"""How much memory is free, and how many cases are read at once in it."""

import mmap
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from datamodules.cache import preparation
from datamodules.memory import free_memory, return_memory

MEMINFO = "MemTotal: 9000 kB\nMemFree: 100 kB\nMemAvailable:    4000 kB\n"


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

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    blocks = [b"x" * 100_000 for _ in range(1000)]  # too small to be mapped one by one
    last = blocks.pop()
    before = resident()
    blocks.clear()
    return_memory()
    assert before - resident() > 50_000_000
    assert last


@pytest.mark.parametrize(("cases_fit", "at_once"), [(9, 8), (2.5, 2), (0.1, 1)])
def test_as_many_cases_at_once_as_fit_in_memory(
    module: Callable,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    cases_fit: float,
    at_once: int,
) -> None:
    size = 20 * 24 * 4 * (2 * 4 + 28)  # one modality, no posterior, the native grid
    monkeypatch.setattr(preparation, "free_memory", lambda: 2 * cases_fit * size)
    threads: list[int] = []
    in_parallel = preparation.in_parallel

    def noted(*args: Any, workers: int | None, **options: Any) -> Any:
        threads.append(workers)
        return in_parallel(*args, workers=workers, **options)

    monkeypatch.setattr(preparation, "in_parallel", noted)
    assert module(prepare_workers=8).check(progress=False) == []
    assert threads == [at_once]
    assert ("are read" in capfd.readouterr().err) == (at_once < 8)
