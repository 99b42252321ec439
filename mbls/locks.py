"""Locks on files: held by one process at a time, and given back by the kernel when it ends."""

import errno
import fcntl
from typing import IO

__all__ = ["NO_LOCKS", "try_lock"]

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
