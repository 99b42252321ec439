"""Which files were found sound lately: their sizes and times, kept beside them."""

import contextlib
import json
import time
from collections.abc import Iterable
from pathlib import Path

_NAME = "verified.json"
_LASTS = 86400.0  # seconds: a disk that fails changes bytes and no time
_GRAIN = 2e9  # nanoseconds in which two changes of a file may bear the same time

State = dict[str, list[int]]


def state_of(files: Iterable[Path]) -> State:
    """Return size and time of change of each file.

    Raises:
        OSError: A file is not there.
    """
    stats = {path.name: path.stat() for path in files}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def is_verified(folder: Path, state: State) -> bool:
    """Whether the files in this state were found sound within a day."""
    stamp = folder / _NAME
    try:
        young = time.time() - stamp.stat().st_mtime < _LASTS
        return young and json.loads(stamp.read_text()) == state
    except (OSError, ValueError):
        return False


def mark_verified(folder: Path, state: State) -> None:
    """Keep that the files are sound, where the folder can be written to."""
    if time.time_ns() - max(changed for _, changed in state.values()) > _GRAIN:
        with contextlib.suppress(OSError):
            (folder / _NAME).write_text(json.dumps(state))
