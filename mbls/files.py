"""Files that are there whole or not at all, and what is said where they cannot be written."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mbls.errors import OutputError

__all__ = ["replace_file", "replacing", "writing"]

ROOM = ("ENOSPC", "EDQUOT", "EFBIG")


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn the system's refusal to write ``place`` into an error that says what to do.

    Raises:
        OutputError: No room, no permission, a disk that fails.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(unwritable(place, error)) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file under another name; at the end it is on the disk and renamed to ``path``.

    Raises:
        OutputError: It cannot be written. Whatever is raised, what was there is still there.
    """
    incoming = path.with_name(f"{path.name}.incoming")
    try:
        with writing(path):
            with incoming.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            incoming.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            incoming.unlink()
        raise


def replace_file(path: Path, content: bytes) -> None:
    """Write ``path`` as :func:`replacing` does: old or new, never half.

    Raises:
        OutputError: It cannot be written; what was there is still there.
    """
    with replacing(path) as file:
        file.write(content)


def unwritable(place: Path, error: OSError) -> str:
    """Return the message for a place that the system refuses to write."""
    full = error.errno in (getattr(errno, name, None) for name in ROOM)
    way_out = "Free some room" if full else "Give permission to write there"
    return (
        f"{place} cannot be written ({error.strerror or error}). What was written before is whole. "
        f"{way_out}; a run goes on with make train RUN=FOLDER RESUME=1 (mbls train --run FOLDER "
        "--resume)."
    )
