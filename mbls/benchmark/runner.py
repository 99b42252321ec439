"""Run the cells of a sweep in subprocesses, several at a time."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Protocol

from mbls.benchmark.cells import Cell, State
from mbls.runtime.locks import claim
from mbls.runtime.threads import shared_environment

__all__ = ["Entry", "Runner", "Status", "View"]

POLL = 0.2  # seconds between two polls of the processes
PATIENCE = 120.0  # seconds for a run to finish its batch and write a checkpoint
POLL_ELSEWHERE = 5.0  # ... and at cells that another sweep runs


class Status(StrEnum):
    """State of a cell in this sweep."""

    KEPT = "kept"  # finished before this sweep started, or by another one
    WAITING = "waiting"
    RUNNING = "running"
    ELSEWHERE = "elsewhere"  # another process has claimed it or locked its folder
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"  # by a signal; the same command resumes it


@dataclass
class Entry:
    """A cell and its state.

    Args:
        cell: The cell.
        status: The state.
        process: The process, once started.
        started: Start time on the monotonic clock.
        resumed: True if it resumed from a checkpoint.
        seconds: Duration, once the process has ended.
    """

    cell: Cell
    status: Status = Status.WAITING
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    resumed: bool = False
    seconds: float | None = None
    polled: float = field(default=-POLL_ELSEWHERE, repr=False)
    signaled: int = field(default=0, repr=False)  # signals sent to the process

    @property
    def code(self) -> int | None:
        """The exit status of the process."""
        return None if self.process is None else self.process.returncode


class View(Protocol):
    """Display of a sweep."""

    def started(self, entry: Entry, entries: Sequence[Entry]) -> None:
        """A cell's process has started."""

    def ended(self, entry: Entry, entries: Sequence[Entry]) -> None:
        """A cell's process has ended, or another sweep finished the cell."""

    def tick(self, entries: Sequence[Entry]) -> None:
        """Called at every poll."""

    def stopping(self, entries: Sequence[Entry]) -> None:
        """A signal was caught."""

    def done(self, entries: Sequence[Entry]) -> None:
        """The sweep has ended."""


class Runner:
    """Run the unfinished cells of a sweep.

    A failed cell does not stop the others. The first signal stops the running cells after a
    checkpoint; a second one kills them.

    Args:
        cells: The cells, in starting order.
        jobs: Number of cells that run at a time.
        view: Display of the sweep.
    """

    def __init__(self, cells: Sequence[Cell], *, jobs: int, view: View) -> None:
        self.entries = [Entry(cell) for cell in cells]
        self.jobs, self.view = jobs, view
        self.signals = 0
        for entry in self.entries:
            if entry.cell.state() is State.FINISHED:
                entry.status = Status.KEPT

    def run(self) -> list[Entry]:
        """Run all cells and return their states."""
        with self._catching_signals(), self._ending_all():
            while self._left():
                self._reap()
                if self.signals:
                    self._stop()
                else:
                    self._launch()
                self.view.tick(self.entries)
                time.sleep(POLL)
            self.view.done(self.entries)
        return self.entries

    @contextmanager
    def _ending_all(self) -> Iterator[None]:
        """If the sweep itself fails, terminate its processes.

        They are killed after ``PATIENCE`` seconds, or at the next signal.
        """
        try:
            yield
        finally:
            running = [e.process for e in self._with(Status.RUNNING) if e.process is not None]
            for process in running:
                process.terminate()
            end, before = time.monotonic() + PATIENCE, self.signals
            while any(process.poll() is None for process in running):
                if time.monotonic() > end or self.signals > before:
                    for process in running:
                        _kill(process)
                time.sleep(POLL)

    def _left(self) -> bool:
        if self.signals:
            return bool(self._with(Status.RUNNING))
        return bool(self._with(Status.RUNNING, Status.WAITING, Status.ELSEWHERE))

    def _with(self, *statuses: Status) -> list[Entry]:
        return [entry for entry in self.entries if entry.status in statuses]

    def _launch(self) -> None:
        """Start cells up to ``jobs``: new ones, then those that other sweeps may have left."""
        for entry in self._with(Status.WAITING) + self._with(Status.ELSEWHERE):
            if len(self._with(Status.RUNNING)) >= self.jobs:
                return
            if entry.status is Status.WAITING or self._due(entry):
                self._try(entry)

    def _due(self, entry: Entry) -> bool:
        return time.monotonic() - entry.polled >= POLL_ELSEWHERE

    def _try(self, entry: Entry) -> None:
        with claim(entry.cell.folder) as log:
            state = entry.cell.state()
            if log is not None and state is State.FINISHED:  # by another sweep meanwhile
                entry.status = Status.KEPT
                self.view.ended(entry, self.entries)
                return
            args = None if log is None or state is State.LOCKED else entry.cell.next_args()
            if log is None or args is None:
                entry.status, entry.polled = Status.ELSEWHERE, time.monotonic()
                return
            entry.resumed = state is State.STOPPED
            command = mbls_command(args)
            log.write(f"[{datetime.now():%Y-%m-%d %H:%M:%S}] {shlex.join(command)}\n")
            log.flush()
            # stdout is the claim, which the child keeps; a new session, since a terminal's Ctrl-C
            # would otherwise reach the child a second time
            entry.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=shared_environment(self.jobs), start_new_session=True,
            )  # fmt: skip
        entry.status, entry.started = Status.RUNNING, time.monotonic()
        self.view.started(entry, self.entries)

    def _reap(self) -> None:
        for entry in self._with(Status.RUNNING):
            if entry.process is None or entry.process.poll() is None:
                continue
            entry.seconds = time.monotonic() - entry.started
            if entry.code == 0 and entry.cell.state() is State.FINISHED:
                entry.status = Status.DONE
            else:
                entry.status = Status.STOPPED if self.signals else Status.FAILED
            self.view.ended(entry, self.entries)

    @contextmanager
    def _catching_signals(self) -> Iterator[None]:
        """Handle SIGINT, SIGTERM, and SIGHUP unless nohup ignores it."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signals += 1

    def _stop(self) -> None:
        """Forward signals to processes that have not received them."""
        running = self._with(Status.RUNNING)
        if not any(entry.signaled for entry in self.entries):
            self.view.stopping(self.entries)
        for entry in running:
            if entry.process is None or entry.signaled >= min(self.signals, 2):
                continue
            if self.signals == 1:
                entry.process.terminate()  # it finishes its batch and writes a checkpoint
            else:
                _kill(entry.process)
            entry.signaled = min(self.signals, 2)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its children, unless it has ended (its id may be reused)."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def mbls_command(args: Sequence[str]) -> list[str]:
    """Return the command line that runs ``mbls`` in this environment."""
    script = Path(sys.executable).with_name("mbls")
    return [*([str(script)] if script.is_file() else [sys.executable, "-m", "mbls.cli"]), *args]
