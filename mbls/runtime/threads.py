"""How many threads compute, and how long one without work spins; imports nothing heavy.

torch's OpenMP reads both from the environment when it is loaded, so :func:`set_defaults` comes
before torch does. What the user set there stays.

Without a number, threads are as many as CPUs are seen, also where a quota gives the process fewer.
And after each parallel loop an idle thread spins: with GNU's OpenMP, which torch's wheels for Linux
have, for milliseconds. Where a thread has lost its CPU to another process the others spin for as
long as it is away, which takes CPU time from it, and from everybody else. A tenth of a millisecond
is longer than from one operation of a step to the next, and costs little where it is in vain.
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

    That is the least of what the machine has, the process's affinity, the quota of each control
    group around it (a container's; a part of a CPU counts as one), and what Slurm gave the task.

    Args:
        root: Where ``proc`` and ``sys`` are.
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
            if float(quota) > 0:  # -1 is none
                yield math.ceil(float(quota) / float(period))
        except (OSError, ValueError):  # no such group here, or one without a quota ("max")
            continue


def set_defaults() -> None:
    """Set what the environment does not say of threads; nothing, once torch is loaded."""
    if "torch" in sys.modules:
        return
    if not _stated(NUMBERS):
        _give({"OMP_NUM_THREADS": str(cpus())})
    if not _stated(WAITING):
        _give(SPIN)


def shared_environment(processes: int) -> dict[str, str]:
    """Return the environment of one of so many commands that compute at once and share the CPUs.

    What the user set stays. One command alone sets its defaults itself.
    """
    env = {name: value for name, value in os.environ.items() if _given.get(name) != value}
    return env | (_share(processes) if processes > 1 else {})


def share_cpus(ranks: int) -> None:
    """Take this rank's share of the CPUs, and leave theirs to the ranks that it will start."""
    import torch

    share = _share(ranks)
    for number in share.values():
        torch.set_num_threads(int(number))
    _give(share)


def _share(processes: int) -> dict[str, str]:
    if _stated(NUMBERS):
        return {}
    return {"OMP_NUM_THREADS": str(max(1, cpus() // processes))}


def threads_in_force() -> dict[str, Any]:
    """Return what run.json says of threads."""
    import torch

    return {
        "threads": torch.get_num_threads(),
        "threads_set_by": {n: os.environ[n] for n in NUMBERS + WAITING if n in os.environ},
        "cpus": {"seen": os.cpu_count(), "allowed": cpus()},
    }


def _stated(names: tuple[str, ...]) -> bool:
    """Return True if the user set one of them, or whoever started this process."""
    return any(name in os.environ and os.environ[name] != _given.get(name) for name in names)


def _give(variables: dict[str, str]) -> None:
    os.environ.update(variables)
    _given.update(variables)


def in_threads(count: int, work: Callable[[], Result]) -> list[Result]:
    """Call ``work`` in so many threads at once, this one among them; torch computes alone in each.

    The caller works too, since the memory that a new thread asks for comes fresh, page by page.
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
    """Let torch use no other thread for what this thread computes.

    It is also the number of threads to come, until another thread sets its own again.
    """
    import torch

    torch.get_num_threads()  # or the thread would take the number set last
    torch.set_num_threads(1)
