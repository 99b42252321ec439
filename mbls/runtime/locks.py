"""Locks on folders and logs: of one process at a time, released by the kernel when it ends."""

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
    "Owner",
    "claim",
    "has_shared_locks",
    "is_locked",
    "lock_folder",
    "locked_folder",
    "log_file",
    "owner_of",
    "try_lock_folder",
    "unlock",
]

LOCK = "lock"
"""File in a folder, locked by the process that writes there; its content names that process."""

JOB_IDS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")  # what batch systems call a job's id
NODE_LOCAL = {"localflock", "nolock", "local_lock=flock", "local_lock=all"}  # mounts: Lustre, NFS
TRIES = 5  # 0.02 s apart: is_locked shares the lock for a moment
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # errors of a file system without locks


@dataclass(frozen=True)
class Owner:
    """The process that has locked a folder, as it wrote itself.

    Args:
        host: Its machine.
        process: Its id there.
        job: Id of its batch job, empty where it has none.
        since: When it locked the folder, ``2026-11-30 19:52``.
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
    """Return who has locked a folder, or was killed while it had; None where nobody is known."""
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


def try_lock_folder(folder: Path) -> IO[str] | None:
    """Lock a folder for this process until :func:`unlock`; None where another one has it.

    On a file system without locks nothing is locked.

    Raises:
        RunFolderError: Nobody can write in the folder, or it has just been moved away.
    """
    path = folder / LOCK
    try:
        for _ in range(TRIES):
            file = path.open("a+")
            try:
                if _try_lock(file) and _is_at(file, path):
                    _write(file, json.dumps(asdict(Owner.this())) + "\n")
                    return file
            except OSError as error:
                if error.errno in NO_LOCKS:
                    return file
                file.close()
                raise
            file.close()  # locked, or removed by its owner: look again
            time.sleep(0.02)
    except OSError as error:
        raise RunFolderError(
            f"Run folder {folder} cannot be written to ({error.strerror})."
        ) from error
    return None


def _try_lock(file: IO[str]) -> bool:
    """Lock an open file for this process, and return True if no other one has it.

    Raises:
        OSError: The file system has no locks (``NO_LOCKS``).
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(file: IO[str], text: str) -> None:
    """Write the owner; a full disk does not matter."""
    with suppress(OSError):
        file.truncate(0)
        file.write(text)
        file.flush()


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def unlock(file: IO[str]) -> None:
    """Release a lock, also where a process that was forked meanwhile has the file open."""
    _write(file, "")
    with suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_UN)
    file.close()


def lock_folder(folder: Path, *, patience: float = 0.0) -> IO[str]:
    """Lock a folder as :func:`try_lock_folder` does, or wait for the process that has it.

    Args:
        folder: A run folder, or one below it.
        patience: Seconds to wait for another process to end.

    Raises:
        RunFolderError: Another process writes in the folder, or nobody can.
    """
    end = time.monotonic() + patience
    while (file := try_lock_folder(folder)) is None:
        if time.monotonic() >= end:
            raise RunFolderError(
                f"Another process is at work in run folder {folder}{_who(folder)}. Wait for its "
                f"end, or start a run of its own.{_way_out(folder)}"
            )
        time.sleep(min(1.0, patience))
    return file


@contextmanager
def locked_folder(folder: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Lock a folder as :func:`lock_folder` does while something is written there."""
    file = lock_folder(folder, patience=patience)
    try:
        yield
    finally:
        unlock(file)


def _who(folder: Path) -> str:
    owner = owner_of(folder)
    return "" if owner is None else f" ({owner})"


def _way_out(folder: Path) -> str:
    """Return what to do where the owner of a locked folder has ended, or is elsewhere."""
    owner, path = owner_of(folder), folder / LOCK
    if owner is None:
        return ""
    if owner.host != socket.gethostname():
        return (
            f" Where {owner.host} is down, its file server may not know it: make sure that nothing "
            f"runs there, and remove {path}."
        )
    try:
        os.kill(owner.process, 0)
    except ProcessLookupError:
        return f" That process has ended, one that it started has not: fuser {path} names it."
    except PermissionError:  # another user's
        pass
    return ""


def is_locked(folder: Path) -> bool:
    """Return True if a process has locked a folder; where files cannot be locked, none has."""
    try:
        with (folder / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def claim(folder: Path) -> Iterator[IO[str] | None]:
    """Claim a cell of a sweep: yield its open log, or None if another process has claimed it.

    The claim is a lock on ``<folder>.log``. The kernel releases it when its last holder ends, by a
    crash too, so no claim goes stale; and a child that writes its output there (``stdout=file``)
    shares it with its parent, and keeps it if it outlives it.

    Raises:
        RunFolderError: The log cannot be written, or its file system has no locks.
    """
    path = log_file(folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written ({error.strerror}).") from error
    with file:
        try:
            locked = _try_lock(file)
        except OSError as error:
            raise RunFolderError(
                f"{path} cannot be locked ({error.strerror}): keep runs on a file system with "
                "locks, so that no run is started twice."
            ) from error
        yield file if locked else None


def log_file(folder: Path) -> Path:
    """Return the file for a cell's output: next to its run folder, which a run makes."""
    return folder.with_name(f"{folder.name}.log")
