"""Processes that a test starts, and that must not outlive it."""

import os
import signal
import subprocess
from contextlib import suppress

_STARTED: list[subprocess.Popen] = []


def killed_after_the_test(process: subprocess.Popen) -> subprocess.Popen:
    """Note a process that leads its own group, so that a failed test leaves nothing running."""
    _STARTED.append(process)
    return process


def kill_started() -> None:
    """Kill the groups of the processes that still run."""
    while _STARTED:
        process = _STARTED.pop()
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
