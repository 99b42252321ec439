"""Exclusive locks on folders and logs, which the kernel releases when the process ends."""

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
"""Lock file in a folder; it names the process that has locked it."""

JOB_IDS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")
NODE_LOCAL = {"localflock", "nolock", "local_lock=flock", "local_lock=all"}  # mount options
TRIES = 5  # 0.02 s apart: is_locked takes a shared lock for a moment
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # errors of a file system without locks


@dataclass(frozen=True)
class Owner:
    """The process that has locked a folder, as recorded in the lock file.

    Args:
        host: Host name.
        process: Process id.
        job: Id of the batch job, empty if there is none.
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
    """Return the process that locks a folder, or was killed while it did; None if unknown."""
    try:
        return Owner(**json.loads((folder / LOCK).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def has_shared_locks(folder: Path) -> bool:
    """Return True if locks in a folder work across all machines that mount it.

    They do not if the file system has no locks (Lustre without ``-o flock``, some FUSE), or if the
    mount keeps them local (Lustre's ``localflock``, NFS's ``local_lock``).

    Raises:
        OSError: The folder cannot be written.
    """
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # locked by another process
        except OSError as error:
            if error.errno in NO_LOCKS:
                return False
            raise
        device = os.fstat(file.fileno()).st_dev
    return not NODE_LOCAL & _mount_options(f"{os.major(device)}:{os.minor(device)}")


def _mount_options(device: str) -> set[str]:
    """Return the mount options of a device, ``major:minor``; none if they are unknown."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return set()
    fields = [line.split() for line in mounts]
    return {option for f in fields if f[2] == device for option in f"{f[5]},{f[-1]}".split(",")}


def try_lock_folder(folder: Path) -> IO[str] | None:
    """Lock a folder until :func:`unlock`; return None if another process has locked it.

    On a file system without locks nothing is locked.

    Raises:
        RunFolderError: The folder cannot be written, or has just been moved.
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
            file.close()  # locked, or removed by its owner: try again
            time.sleep(0.02)
    except OSError as error:
        raise RunFolderError(
            f"Run folder {folder} cannot be written ({error.strerror})."
        ) from error
    return None


def _try_lock(file: IO[str]) -> bool:
    """Lock an open file; return False if another process has locked it.

    Raises:
        OSError: The file system has no locks (``NO_LOCKS``).
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(file: IO[str], text: str) -> None:
    """Replace the content of a lock file; errors are ignored, since it is only informative."""
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
    """Release a lock, even if a forked child still has the file open."""
    _write(file, "")
    with suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_UN)
    file.close()


def lock_folder(folder: Path, *, patience: float = 0.0) -> IO[str]:
    """Lock a folder with :func:`try_lock_folder`, waiting for another process if necessary.

    Args:
        folder: A run folder, or one below it.
        patience: Seconds to wait for another process to release it.

    Raises:
        RunFolderError: Another process has locked the folder, or it cannot be written.
    """
    end = time.monotonic() + patience
    while (file := try_lock_folder(folder)) is None:
        if time.monotonic() >= end:
            raise RunFolderError(
                f"Run folder {folder} is locked by another process{_who(folder)}. Wait for it to "
                f"end, or start a new run.{_way_out(folder)}"
            )
        time.sleep(min(1.0, patience))
    return file


@contextmanager
def locked_folder(folder: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Lock a folder with :func:`lock_folder` for the duration of a ``with`` block."""
    file = lock_folder(folder, patience=patience)
    try:
        yield
    finally:
        unlock(file)


def _who(folder: Path) -> str:
    owner = owner_of(folder)
    return "" if owner is None else f" ({owner})"


def _way_out(folder: Path) -> str:
    """Return what to do if the owner of a lock has ended, or is on another host."""
    owner, path = owner_of(folder), folder / LOCK
    if owner is None:
        return ""
    if owner.host != socket.gethostname():
        return (
            f" If {owner.host} is down, the file server may not have released the lock: make sure "
            f"that nothing runs there, and remove {path}."
        )
    try:
        os.kill(owner.process, 0)
    except ProcessLookupError:
        return f" That process has ended, but a child of it has not: fuser {path} names it."
    except PermissionError:  # another user's
        pass
    return ""


def is_locked(folder: Path) -> bool:
    """Return True if a process has locked a folder; False on a file system without locks."""
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

    The claim is a lock on ``<folder>.log``. The kernel releases it when the last process that has
    the file open ends, also after a crash, so claims are never stale. A child with
    ``stdout=file`` shares the lock and keeps it if it outlives its parent.

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
                f"{path} cannot be locked ({error.strerror}): without locks a run could start "
                "twice. Keep runs on a file system with locks."
            ) from error
        yield file if locked else None


def log_file(folder: Path) -> Path:
    """Return the log of a cell: next to its run folder, which the run creates."""
    return folder.with_name(f"{folder.name}.log")
