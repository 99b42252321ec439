"""Clears away what jobs that were killed left unfinished."""

import os
import shutil
import tempfile
import time
from pathlib import Path

STALE = 3600.0  # seconds after which an unfinished folder belongs to a job that is dead


def now_in(folder: Path) -> float:
    """Return the time by the clock that stamps files in ``folder``: a file server has its own.

    If nothing can be written, this machine's clock is used.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


def clear_leftovers(folder: Path, pattern: str) -> None:
    """Remove the folders in ``folder`` that match ``pattern`` and have not changed for an hour."""
    found = list(folder.glob(pattern))
    now = now_in(folder) if found else 0.0
    for left in found:
        try:
            if now - left.stat().st_mtime > STALE:
                shutil.rmtree(left, ignore_errors=True)
        except FileNotFoundError:
            continue  # another job was faster
