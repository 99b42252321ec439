"""Number of OpenMP threads, and how long idle ones spin; imports nothing heavy.

torch's OpenMP runtime reads both from the environment when it is loaded, so :func:`set_defaults`
must run before torch is imported. Variables that the user has set are kept.

By default OpenMP starts one thread per visible CPU, even if a quota allows fewer. After each
parallel loop idle threads spin, for milliseconds with GNU's OpenMP (torch's Linux wheels). If one
thread is preempted, all others spin until it returns, which wastes CPU time of every process on the
machine. 0.1 ms of spinning covers the gap between two operations and costs little.
"""

import math
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from mbls.runtime.cgroups import control_groups

__all__ = [
    "compute_alone",
    "cpus",
    "in_threads",
    "set_defaults",
    "share_cpus",
    "shared_environment",
    "threads_in_force",
]

Result = TypeVar("Result")

NUMBERS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
SPIN = {
    "GOMP_SPINCOUNT": "5000",  # GNU's: rounds, about 0.1 ms
    "KMP_BLOCKTIME": "1",  # Intel's and LLVM's (conda, macOS): ms; theirs is 200
}
_given: dict[str, str] = {}  # what set_defaults and share_cpus put into the environment


def cpus(root: Path = Path("/")) -> int:
    """Return how many CPUs this process may use.

    The minimum of the machine's CPUs, the process's affinity, the quotas of its cgroups (rounded
    up) and Slurm's allocation for the task.

    Args:
        root: Folder that contains ``proc`` and ``sys``.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    seen = len(affinity(0)) if affinity else os.cpu_count() or 1
    slurm = (os.environ.get(name, "") for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"))
    return max(1, min([seen, *_quotas(root), *(int(count) for count in slurm if count.isdigit())]))


def _quotas(root: Path) -> Iterator[int]:
    for version, folder in control_groups("cpu", root):
        names = ("cpu.max",) if version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        try:
            quota, period = " ".join((folder / name).read_text() for name in names).split()
            if float(quota) > 0:  # -1: no quota
                yield math.ceil(float(quota) / float(period))
        except (OSError, ValueError):  # no such cgroup, or no quota ("max")
            continue


def set_defaults() -> None:
    """Set the thread variables that the user has not set; does nothing once torch is imported."""
    if "torch" in sys.modules:
        return
    if not _set_by_user(NUMBERS):
        _export({"OMP_NUM_THREADS": str(cpus())})
    if not _set_by_user(WAITING):
        _export(SPIN)


def shared_environment(processes: int) -> dict[str, str]:
    """Return the environment for each of ``processes`` commands that run at once on these CPUs.

    Variables that the user has set are kept. A single command sets its own defaults.
    """
    env = {name: value for name, value in os.environ.items() if _given.get(name) != value}
    return env | (_share(processes) if processes > 1 else {})


def share_cpus(ranks: int) -> None:
    """Divide the CPUs among ``ranks``: this process, and those that it will start."""
    import torch

    share = _share(ranks)
    for number in share.values():
        torch.set_num_threads(int(number))
    _export(share)


def _share(processes: int) -> dict[str, str]:
    if _set_by_user(NUMBERS):
        return {}
    return {"OMP_NUM_THREADS": str(max(1, cpus() // processes))}


def threads_in_force() -> dict[str, Any]:
    """Return the thread settings that run.json records."""
    import torch

    return {
        "threads": torch.get_num_threads(),
        "threads_set_by": {n: os.environ[n] for n in NUMBERS + WAITING if n in os.environ},
        "cpus": {"seen": os.cpu_count(), "allowed": cpus()},
    }


def _set_by_user(names: tuple[str, ...]) -> bool:
    """Return True if the user, or the parent process, has set one of these variables."""
    return any(name in os.environ and os.environ[name] != _given.get(name) for name in names)


def _export(variables: dict[str, str]) -> None:
    os.environ.update(variables)
    _given.update(variables)


def in_threads(count: int, work: Callable[[], Result]) -> list[Result]:
    """Call ``work`` in ``count`` threads at once, each with single-threaded torch operations.

    The calling thread is one of them: a new thread would allocate fresh memory page by page.
    """
    import torch

    before, others = torch.get_num_threads(), max(1, count - 1)
    try:
        with ThreadPoolExecutor(others, initializer=compute_alone) as pool:
            started = [pool.submit(work) for _ in range(count - 1)]
            compute_alone()
            return [work(), *(done.result() for done in started)]
    finally:
        torch.set_num_threads(before)


def compute_alone() -> None:
    """Make torch operations of this thread single-threaded.

    Threads that start later inherit the setting, until another thread sets its own.
    """
    import torch

    torch.get_num_threads()  # otherwise this thread would adopt the number that was set last
    torch.set_num_threads(1)
