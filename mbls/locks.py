"""Locks on files: held by one process at a time, and given back by the kernel when it ends."""

import errno
import fcntl
import os
import time
from pathlib import Path
from typing import IO

from mbls.errors import RunFolderError

__all__ = ["LOCK", "NO_LOCKS", "hold", "is_held", "try_hold", "try_lock"]

LOCK = "lock"
"""File in a folder that the process which writes there holds locked."""

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


def try_hold(folder: Path) -> IO[str] | None:
    """Hold a folder for this process until the file is closed; None where another one holds it.

    On a file system without locks nothing is held.

    Raises:
        RunFolderError: Nobody can write in the folder, or it has just been moved away.
    """
    path = folder / LOCK
    try:
        file = path.open("a")
        try:
            if not try_lock(file):
                file.close()
                return None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        if _is_at(file, path):
            return file
    except OSError as error:
        raise RunFolderError(
            f"Run folder {folder} cannot be written to ({error.strerror})."
        ) from error
    file.close()
    raise RunFolderError(f"Run folder {folder} was moved away by another process. Start again.")


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def hold(folder: Path, *, patience: float = 0.0) -> IO[str]:
    """Hold a folder as :func:`try_hold` does, or wait for the process that does.

    Args:
        folder: A run folder, or one below it.
        patience: Seconds to wait for another process to end.

    Raises:
        RunFolderError: Another process writes in the folder, or nobody can.
    """
    end = time.monotonic() + patience
    while (file := try_hold(folder)) is None:
        if time.monotonic() >= end:
            raise RunFolderError(
                f"Another process is at work in run folder {folder}. Wait for its end, or start a "
                "run of its own."
            )
        time.sleep(min(1.0, patience))
    return file


def is_held(folder: Path) -> bool:
    """Say whether a process holds a folder; where files cannot be locked, none does."""
    path = folder / LOCK
    if not path.is_file():
        return False
    try:
        with path.open("a") as file:
            return not try_lock(file)
    except OSError:
        return False
