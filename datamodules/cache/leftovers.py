"""Clears away what jobs that were killed left unfinished."""

import shutil
import time
from pathlib import Path

STALE = 3600.0  # seconds after which an unfinished folder belongs to a job that is dead


def clear_leftovers(folder: Path, pattern: str) -> None:
    """Remove the folders in ``folder`` that match ``pattern`` and have not changed for an hour."""
    for left in folder.glob(pattern):
        try:
            if time.time() - left.stat().st_mtime > STALE:
                shutil.rmtree(left, ignore_errors=True)
        except FileNotFoundError:
            continue  # another job was faster
