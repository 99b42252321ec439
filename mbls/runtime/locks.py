"""Locks on files: held by one process at a time, and given back by the kernel when it ends."""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from mbls.runtime.errors import RunFolderError

__all__ = [
    "LOCK",
    "NO_LOCKS",
    "Owner",
    "has_shared_locks",
    "hold",
    "holding",
    "is_held",
    "let_go",
    "owner_of",
    "try_hold",
    "try_lock",
]

LOCK = "lock"
"""File in a folder that the process which writes there holds locked; it says which one that is."""

JOB_IDS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")  # what batch systems call a job's id
NODE_LOCAL = {"localflock", "nolock", "local_lock=flock", "local_lock=all"}  # mounts: Lustre, NFS
TRIES = 5  # 0.02 s apart: whoever asks whether a folder is held shares the lock for a moment
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # what a file system without locks says


@dataclass(frozen=True)
class Owner:
    """The process that holds a folder, as it says itself.

    Args:
        host: Its machine.
        process: Its id there.
        job: Id of its batch job, empty where it has none.
        since: When it began to hold the folder, ``2026-11-30 19:52``.
    """

    host: str
    process: int
    job: str
    since: str

    @classmethod
    def this(cls) -> "Owner":
        """Return this process."""
        job = next((os.environ[name] for name in JOB_IDS if os.environ.get(name)), "")
        return cls(socket.gethostname(), os.getpid(), job, f"{datetime.now():%Y-%m-%d %H:%M}")

    def __str__(self) -> str:
        job = f" of job {self.job}" if self.job else ""
        return f"process {self.process} on {self.host}{job}, since {self.since}"


def owner_of(folder: Path) -> Owner | None:
    """Return who holds a folder, or was killed while it did; None where nobody is known."""
    try:
        return Owner(**json.loads((folder / LOCK).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def has_shared_locks(folder: Path) -> bool:
    """Return True if a lock in a folder is seen by every machine that sees the folder.

    It is not where the file system has none (Lustre without ``-o flock``, some FUSE), nor where
    the mount keeps them to the machine (Lustre's ``localflock``, NFS's ``local_lock``).

    Raises:
        OSError: Nobody can write in the folder.
    """
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # another process has it
        except OSError as error:
            if error.errno in NO_LOCKS:
                return False
            raise
        device = os.fstat(file.fileno()).st_dev
    return not NODE_LOCAL & _mount_options(f"{os.major(device)}:{os.minor(device)}")


def _mount_options(device: str) -> set[str]:
    """Return the options of a mounted device, ``major:minor``; none where Linux does not say."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return set()
    fields = [line.split() for line in mounts]
    return {word for f in fields if f[2] == device for word in f"{f[5]},{f[-1]}".split(",")}


def try_lock(file: IO[str]) -> bool:
    """Lock an open file for this process, and return True if no other one has it.

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
        file = path.open("a+")
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
        _write(file, json.dumps(asdict(Owner.this())) + "\n")
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


def _write(file: IO[str], text: str) -> None:
    """Say who holds the folder; a full disk keeps nobody from it."""
    with suppress(OSError):
        file.truncate(0)
        file.write(text)
        file.flush()


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def let_go(file: IO[str]) -> None:
    """Give a lock back, also where a process that was forked meanwhile has the file open."""
    _write(file, "")
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
                f"Another process is at work in run folder {folder}{_who(folder)}. Wait for its "
                f"end, or start a run of its own.{_way_out(folder)}"
            )
        time.sleep(min(1.0, patience))
    return file


@contextmanager
def holding(folder: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Hold a folder as :func:`hold` does while something is written there, and let it go."""
    file = hold(folder, patience=patience)
    try:
        yield
    finally:
        let_go(file)


def _who(folder: Path) -> str:
    owner = owner_of(folder)
    return "" if owner is None else f" ({owner})"


def _way_out(folder: Path) -> str:
    """Return what to do where the owner of a folder that is locked is no more, or elsewhere."""
    owner, path = owner_of(folder), folder / LOCK
    if owner is None:
        return ""
    if owner.host != socket.gethostname():
        return (
            f" Where {owner.host} is down, its file server may not have heard of it: make sure "
            f"that nothing runs there, and remove {path}."
        )
    try:
        os.kill(owner.process, 0)
    except ProcessLookupError:
        return f" That process has ended, one that it started has not: fuser {path} names it."
    except PermissionError:  # another user's
        pass
    return ""


def is_held(folder: Path) -> bool:
    """Return True if a process holds a folder; where files cannot be locked, none does."""
    try:
        with (folder / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
