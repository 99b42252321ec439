"""Atomic writing of files and folders, and errors if they cannot be written."""

import contextlib
import errno
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mbls.runtime.errors import OutputError, RunFolderError

__all__ = [
    "INCOMING",
    "clear_incoming",
    "incoming_name",
    "read_card",
    "replace_file",
    "replace_files",
    "replacing",
    "writing",
]

INCOMING = "incoming"
"""Suffix of files and folders that are being written."""

DISK_FULL = ("ENOSPC", "EDQUOT", "EFBIG")


def incoming_name(path: Path) -> Path:
    """Return the temporary name, unique to this process, that is renamed to ``path``.

    If two processes write the same file without a lock, one file wins; they are never mixed.
    """
    return path.with_name(path.name + _suffix())


def _suffix() -> str:
    return f".{socket.gethostname()}-{os.getpid()}.{INCOMING}"


def clear_incoming(folder: Path, names: str = "*") -> None:
    """Remove temporary files of killed processes; the caller must have locked the folder.

    Args:
        folder: The folder to clean.
        names: Pattern of the file names, for a folder that other programs write to as well.
    """
    for path in folder.glob(f"{names}.{INCOMING}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn an OSError on writing ``place`` into an OutputError that says what to do.

    Raises:
        OutputError: The disk is full or fails, or permission is missing.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(unwritable(place, error)) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file, which is synced to disk and renamed to ``path`` on success.

    Raises:
        OutputError: The file cannot be written. After any error the old file is unchanged.
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
    """Write ``path`` atomically, with :func:`replacing`.

    Raises:
        OutputError: The file cannot be written; the old file is unchanged.
    """
    with replacing(path) as file:
        file.write(content)


@contextlib.contextmanager
def replace_files(folder: Path, *, mark: str) -> Iterator[Path]:
    """Yield a temporary folder whose files are moved into ``folder`` together at the end.

    Args:
        folder: The destination; only one process at a time may write there.
        mark: The file that marks the set as complete: readers ignore the others without it. It is
            removed first and moved last, so a kill never leaves a mix of two sets that looks valid.
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
    """Return the message of an error on writing ``place``."""
    full = error.errno in (getattr(errno, name, None) for name in DISK_FULL)
    way_out = "Free some disk space" if full else "Check its permissions"
    name = str(place).removesuffix(_suffix())
    return (
        f"{name} cannot be written ({error.strerror or error}). Files written before are complete. "
        f"{way_out}, then resume a run with make train RUN=FOLDER RESUME=1 (mbls train --run "
        "FOLDER --resume)."
    )


def read_card(run: Path) -> dict[str, Any]:
    """Return the content of a run folder's ``run.json``.

    Raises:
        RunFolderError: It is missing or damaged.
    """
    path = run / "run.json"
    try:
        card = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}): {run} is no run folder.") from error
    if not isinstance(card, dict):
        raise RunFolderError(f"{path} must be a JSON object: {run} is no run folder.")
    return card
