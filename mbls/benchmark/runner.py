"""Runs the cells of a grid in processes of their own, some at a time."""

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
from mbls.runtime.claims import claim
from mbls.runtime.threads import shared_environment

__all__ = ["Entry", "Runner", "Status", "View"]

LOOK = 0.2  # seconds between two looks at the processes
PATIENCE = 120.0  # seconds for a run to finish its batch and write a checkpoint
LOOK_ELSEWHERE = 5.0  # ... and at cells that another grid runs


class Status(StrEnum):
    """How a cell stands in this grid."""

    KEPT = "kept"  # finished before this grid started, or by another grid
    WAITING = "waiting"
    RUNNING = "running"
    ELSEWHERE = "elsewhere"  # another process holds its claim or its folder
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"  # by a signal; the same command goes on


@dataclass
class Entry:
    """A cell and how it stands.

    Args:
        cell: The cell.
        status: How it stands.
        process: Its process, once it has one.
        started: When that was, on the monotonic clock.
        resumed: Whether it went on from a checkpoint.
        seconds: What its process took, once it has ended.
    """

    cell: Cell
    status: Status = Status.WAITING
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    resumed: bool = False
    seconds: float | None = None
    looked: float = field(default=-LOOK_ELSEWHERE, repr=False)
    told: int = field(default=0, repr=False)  # how often its process was told to stop

    @property
    def code(self) -> int | None:
        """The exit status of its process."""
        return None if self.process is None else self.process.returncode


class View(Protocol):
    """What shows a grid."""

    def started(self, entry: Entry, entries: Sequence[Entry]) -> None:
        """A cell's process has started."""

    def ended(self, entry: Entry, entries: Sequence[Entry]) -> None:
        """A cell's process has ended, or another grid finished the cell."""

    def tick(self, entries: Sequence[Entry]) -> None:
        """Some time has passed."""

    def stopping(self, entries: Sequence[Entry]) -> None:
        """A signal asked to stop."""

    def done(self, entries: Sequence[Entry]) -> None:
        """Nothing runs any more."""


class Runner:
    """Run what is missing of a grid.

    A cell that fails does not stop the others. A signal stops the running ones in good order; a
    second one ends them at once.

    Args:
        cells: The cells, in the order in which they are started.
        jobs: How many run at a time.
        view: What shows them.
    """

    def __init__(self, cells: Sequence[Cell], *, jobs: int, view: View) -> None:
        self.entries = [Entry(cell) for cell in cells]
        self.jobs, self.view = jobs, view
        self.signals = 0
        for entry in self.entries:
            if entry.cell.state() is State.FINISHED:
                entry.status = Status.KEPT

    def run(self) -> list[Entry]:
        """Run until nothing is left, and return how each cell stands."""
        with self._listening(), self._leaving_none():
            while self._left():
                self._reap()
                if self.signals:
                    self._stop()
                else:
                    self._launch()
                self.view.tick(self.entries)
                time.sleep(LOOK)
            self.view.done(self.entries)
        return self.entries

    @contextmanager
    def _leaving_none(self) -> Iterator[None]:
        """Where the grid itself fails, end its processes: in good order, or else at once.

        At once is after ``PATIENCE``, or with a signal that comes meanwhile.
        """
        try:
            yield
        finally:
            running = [e.process for e in self._with(Status.RUNNING) if e.process is not None]
            for process in running:
                process.terminate()
            end, heard = time.monotonic() + PATIENCE, self.signals
            while any(process.poll() is None for process in running):
                if time.monotonic() > end or self.signals > heard:
                    for process in running:
                        _kill(process)
                time.sleep(LOOK)

    def _left(self) -> bool:
        if self.signals:
            return bool(self._with(Status.RUNNING))
        return bool(self._with(Status.RUNNING, Status.WAITING, Status.ELSEWHERE))

    def _with(self, *statuses: Status) -> list[Entry]:
        return [entry for entry in self.entries if entry.status in statuses]

    def _launch(self) -> None:
        """Start cells while there is room: new ones first, then those that others may have left."""
        for entry in self._with(Status.WAITING) + self._with(Status.ELSEWHERE):
            if len(self._with(Status.RUNNING)) >= self.jobs:
                return
            if entry.status is Status.WAITING or self._due(entry):
                self._try(entry)

    def _due(self, entry: Entry) -> bool:
        return time.monotonic() - entry.looked >= LOOK_ELSEWHERE

    def _try(self, entry: Entry) -> None:
        with claim(entry.cell.folder) as log:
            state = entry.cell.state()
            if log is not None and state is State.FINISHED:  # by another grid since we looked
                entry.status = Status.KEPT
                self.view.ended(entry, self.entries)
                return
            words = None if log is None or state is State.HELD else entry.cell.next_words()
            if log is None or words is None:
                entry.status, entry.looked = Status.ELSEWHERE, time.monotonic()
                return
            entry.resumed = state is State.STOPPED
            command = mbls_command(words)
            log.write(f"[{datetime.now():%Y-%m-%d %H:%M:%S}] {shlex.join(command)}\n")
            log.flush()
            # its output is the claim: the child holds it from here on; a session of its own, since
            # a terminal's Ctrl-C would reach it a second time
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
    def _listening(self) -> Iterator[None]:
        """Take over the signals that ask to stop; SIGHUP where nohup has not taken it."""
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
        """Hand on what signals asked for, to processes that have not heard of it."""
        running = self._with(Status.RUNNING)
        if not any(entry.told for entry in self.entries):
            self.view.stopping(self.entries)
        for entry in running:
            if entry.process is None or entry.told >= min(self.signals, 2):
                continue
            if self.signals == 1:
                entry.process.terminate()  # it finishes its batch and writes a checkpoint
            else:
                _kill(entry.process)
            entry.told = min(self.signals, 2)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with all that it started, unless it has ended and its id is another's."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def mbls_command(words: Sequence[str]) -> list[str]:
    """Return the command line of ``mbls`` in this environment."""
    script = Path(sys.executable).with_name("mbls")
    return [*([str(script)] if script.is_file() else [sys.executable, "-m", "mbls.cli"]), *words]
