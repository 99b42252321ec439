"""Files that are written completely or not at all, and errors where they cannot be."""

import contextlib
import errno
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mbls.runtime.errors import OutputError

__all__ = [
    "INCOMING",
    "clear_incoming",
    "incoming_name",
    "replace_file",
    "replace_files",
    "replacing",
    "writing",
]

INCOMING = "incoming"
"""Suffix of what is not written to its end yet."""

ROOM = ("ENOSPC", "EDQUOT", "EFBIG")


def incoming_name(path: Path) -> Path:
    """Return the name under which this process writes what becomes ``path``; no other has it.

    Two processes that write one file, where nothing could keep them apart, then end with the file
    of one of them, and not with a mix of both.
    """
    return path.with_name(path.name + _suffix())


def _suffix() -> str:
    return f".{socket.gethostname()}-{os.getpid()}.{INCOMING}"


def clear_incoming(folder: Path, names: str = "*") -> None:
    """Remove what processes that were killed have left half written; call it with a lock held.

    Args:
        folder: Where they wrote.
        names: Pattern of the names, for a folder that is not ours alone.
    """
    for path in folder.glob(f"{names}.{INCOMING}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn the system's refusal to write ``place`` into an error with the way out.

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
    incoming = incoming_name(path)
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


@contextlib.contextmanager
def replace_files(folder: Path, *, mark: str) -> Iterator[Path]:
    """Yield a place for files that come into ``folder`` together, when all are on the disk.

    Args:
        folder: Where they are read; one process at a time may write there.
        mark: The file without which nobody reads the others: it goes first and comes last, so
            that files of two sets, which a kill may leave, are never taken for one.
    """
    clear_incoming(folder)
    incoming = incoming_name(folder / mark)
    incoming.mkdir(parents=True)
    try:
        yield incoming
        for path in incoming.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        (folder / mark).unlink(missing_ok=True)
        for path in sorted(incoming.iterdir(), key=lambda path: path.name == mark):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def unwritable(place: Path, error: OSError) -> str:
    """Return the message for a place that the system refuses to write."""
    full = error.errno in (getattr(errno, name, None) for name in ROOM)
    way_out = "Free some room" if full else "Give permission to write there"
    name = str(place).removesuffix(_suffix())
    return (
        f"{name} cannot be written ({error.strerror or error}). What was written before is "
        f"complete. {way_out}; resume a run with make train RUN=FOLDER RESUME=1 (mbls train --run "
        "FOLDER --resume)."
    )
