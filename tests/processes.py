"""Processes of ``mbls`` with time limits; none outlives its test."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

from mbls.cli import main

ROOT = Path(__file__).parents[1]
MBLS = Path(sys.executable).with_name("mbls")
_STARTED: list[subprocess.Popen] = []


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kill_started() -> None:
    """Kill the groups of the processes that still run."""
    while _STARTED:
        process = _STARTED.pop()
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@dataclass(frozen=True)
class Done:
    """A finished process: status, output and time."""

    code: int
    out: str
    err: str
    seconds: float


def start(*args: str) -> subprocess.Popen:
    """Start ``mbls``, which draws no figures, in a process group of its own."""
    return launch([sys.executable, "-m", "tests.processes", *args])


def launch(command: list[str], folder: Path = ROOT) -> subprocess.Popen:
    """Start a command in a process group of its own, one thread a process."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        env.pop(name, None)
    process = subprocess.Popen(
        command, cwd=folder, env=env, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    _STARTED.append(process)
    return process


def finish(process: subprocess.Popen, *, limit: float = 300) -> Done:
    """Wait for a process; one that hangs is killed, and fails the test."""
    begin = time.monotonic()
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        stop_hanging(process)
    return Done(process.returncode, out, err, time.monotonic() - begin)


def stop_hanging(*processes: subprocess.Popen) -> NoReturn:
    """Kill processes with all they started, and fail with what they printed."""
    output = ""
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        output += f"\n--- stdout of {process.pid}\n{out}\n--- stderr\n{err}"
    raise AssertionError(f"{processes[0].args} hung{output}")


def mbls(*args: str, limit: float = 300) -> Done:
    """Run ``mbls`` to its end."""
    return finish(start(*args), limit=limit)


class Process(Protocol):
    """A process, forked or not."""

    def poll(self) -> int | None: ...


def wait_for(
    there: Callable[[], bool], process: Process | None = None, *, limit: float = 300
) -> None:
    """Wait until a condition is true, or the process has ended, or the time is up."""
    end = time.monotonic() + limit
    while not there() and (process is None or process.poll() is None) and time.monotonic() < end:
        time.sleep(0.02)


if __name__ == "__main__":
    from tests.tiny import leave_out_figures

    leave_out_figures()
    sys.exit(main(sys.argv[1:]))
