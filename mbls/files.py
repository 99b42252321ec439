"""Files that are there whole or not at all, and what is said where they cannot be written."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from mbls.errors import OutputError

__all__ = ["replace_file", "writing"]

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


def replace_file(path: Path, content: bytes | memoryview) -> None:
    """Write ``path`` under another name, down to the disk, then rename it: old or new, never half.

    Raises:
        OutputError: It cannot be written; what was there is still there.
    """
    incoming = path.with_name(f"{path.name}.incoming")
    try:
        with writing(path):
            with incoming.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            incoming.replace(path)
    except OutputError:
        with contextlib.suppress(OSError):
            incoming.unlink()
        raise


def unwritable(place: Path, error: OSError) -> str:
    """Return the message for a place that the system refuses to write."""
    full = error.errno in (getattr(errno, name, None) for name in ROOM)
    way_out = "Free some room" if full else "Give permission to write there"
    return (
        f"{place} cannot be written ({error.strerror or error}). What was written before is whole. "
        f"{way_out}; a run goes on with make train RUN=FOLDER RESUME=1 (mbls train --run FOLDER "
        "--resume)."
    )
