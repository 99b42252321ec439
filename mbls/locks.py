"""Locks on files: held by one process at a time, and given back by the kernel when it ends."""

import errno
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from mbls.errors import RunFolderError

__all__ = ["LOCK", "NO_LOCKS", "hold", "is_held", "let_go", "try_hold", "try_lock"]

LOCK = "lock"
"""File in a folder that the process which writes there holds locked."""

TRIES = 5  # 0.02 s apart: whoever asks whether a folder is held shares the lock for a moment
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
    """Hold a folder for this process until :func:`let_go`; None where another one holds it.

    On a file system without locks nothing is held.

    Raises:
        RunFolderError: Nobody can write in the folder, or it has just been moved away.
    """
    path = folder / LOCK
    try:
        file = path.open("a")
        try:
            locked = _lock(file)
            there = _is_at(file, path)
        except OSError:
            file.close()
            raise
    except OSError as error:
        raise RunFolderError(
            f"Run folder {folder} cannot be written to ({error.strerror})."
        ) from error
    if locked and there:
        return file
    file.close()
    if not locked:
        return None
    raise RunFolderError(f"Run folder {folder} was moved away by another process. Start again.")


def _lock(file: IO[str]) -> bool:
    try:
        for _ in range(TRIES - 1):
            if try_lock(file):
                return True
            time.sleep(0.02)
        return try_lock(file)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return True


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def let_go(file: IO[str]) -> None:
    """Give a lock back, also where a process that was forked meanwhile has the file open."""
    with suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_UN)
    file.close()


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
    try:
        with (folder / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
