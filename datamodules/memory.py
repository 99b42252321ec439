"""How much memory is free, and how to give it back."""

import ctypes
import os
from pathlib import Path

from mbls.runtime.cgroups import control_groups

_GROUPS = {  # files of a control group, by version: limit, use, and what of it the kernel may drop
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def free_memory(root: Path = Path("/")) -> int:
    """Return how many bytes this process may still take.

    That is the least of what the machine has and what each control group around the process (a
    container's, a batch job's) leaves below its limit. Files that the kernel keeps in memory count
    as free. Without ``/proc`` it is the machine's total memory.

    Args:
        root: Folder that contains ``proc`` and ``sys``.
    """
    return max(0, min([_of_machine(root), *_of_groups(root)]))


def return_memory() -> None:
    """Give back to the system what was freed; glibc keeps a few hundred MB of it a thread."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)


def _of_machine(root: Path) -> int:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _of_groups(root: Path) -> list[int]:
    """Return what is left in each control group that has a limit."""
    found = (_left_in(folder, *_GROUPS[v]) for v, folder in control_groups("memory", root))
    return [left for left in found if left is not None]


def _left_in(folder: Path, limit: str, use: str, droppable: str) -> int | None:
    try:
        most, used = (int((folder / name).read_text()) for name in (limit, use))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return most - used + int(stat[droppable])
    except (OSError, ValueError, KeyError):  # no such group here, or one without a limit ("max")
        return None
