"""A cell is run by one process at a time, whatever starts it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mbls.runtime.errors import RunFolderError
from mbls.runtime.locks import NO_LOCKS, try_lock

__all__ = ["claim", "log_file"]


@contextmanager
def claim(folder: Path) -> Iterator[IO[str] | None]:
    """Hold the claim to a run folder, an open log file; give None if another process holds it.

    The claim is a lock on ``<folder>.log``. The kernel gives it back when its last holder ends, by
    a crash too, so no claim goes stale; and a child that writes its output there (``stdout=file``)
    holds it with its parent, and alone if it outlives it.

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
        yield file if _lock(file, path) else None


def log_file(folder: Path) -> Path:
    """Return the file that takes a cell's output: beside its run folder, which a run makes."""
    return folder.with_name(f"{folder.name}.log")


def _lock(file: IO[str], path: Path) -> bool:
    try:
        return try_lock(file)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise RunFolderError(
            f"{path} cannot be locked ({error.strerror}): keep runs on a file system with "
            "locks, so that no run is started twice."
        ) from error
