"""Locks on files: held by one process at a time, and given back by the kernel when it ends."""

import errno
import fcntl
from pathlib import Path
from typing import IO

__all__ = ["LOCK", "NO_LOCKS", "is_held", "try_lock"]

LOCK = "lock"
"""File in a run folder that its training holds locked."""

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # what a file system without locks says


def try_lock(file: IO[str]) -> bool:
    """Lock an open file for this process, and say whether no other one has it.

    Raises:
        OSError: The file system has no locks (``NO_LOCKS``).
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_held(folder: Path) -> bool:
    """Say whether a training holds a run folder; where files cannot be locked, none does."""
    path = folder / LOCK
    if not path.is_file():
        return False
    try:
        with path.open("a") as file:
            return not try_lock(file)
    except OSError:
        return False
