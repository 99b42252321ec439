"""Progress and remaining time of a sweep, read from the files of its runs."""

import csv
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from mbls.benchmark.runner import Entry, Status

__all__ = ["epochs_done", "fraction", "last_lines", "result", "seconds_left"]


@dataclass(frozen=True)
class Result:
    """Results of a finished run that a cell shows: mean Dice, and pooled ECE of all voxels."""

    dice: float
    ece: float
    phantom: bool


def result(folder: Path) -> Result | None:
    """Return the results of a finished run, or None if they cannot be read."""
    for tag in ("best", "last"):
        try:
            metrics = json.loads((folder / "test" / tag / "metrics.json").read_text())
            return Result(
                metrics["dice"]["mean"]["value"],
                metrics["sound"]["all"]["pooled"]["ece"]["value"],
                metrics["meta"]["origin"] == "phantom",
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def epochs_done(folder: Path) -> int:
    """Return how many epochs of a run are logged."""
    try:
        with (folder / "metrics.csv").open(newline="") as file:
            return max((int(row["epoch"]) + 1 for row in csv.DictReader(file)), default=0)
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def fraction(entry: Entry, epochs: int) -> float:
    """Return the finished share of a cell's epochs; the test counts as one more epoch."""
    return min(1.0, epochs_done(entry.cell.folder) / (epochs + 1))


def seconds_left(entries: Sequence[Entry], jobs: int, epochs: int) -> float | None:
    """Return the estimated seconds until a sweep ends, or None if nothing is known yet.

    A run is expected to take the mean time of this sweep's complete runs, or else the time that
    the running ones' epochs suggest.
    """
    running = [entry for entry in entries if entry.status is Status.RUNNING]
    whole = [e.seconds for e in entries if e.status is Status.DONE and e.seconds and not e.resumed]
    now = time.monotonic()
    promised = [
        (now - entry.started) / share
        for entry in running
        if not entry.resumed and (share := fraction(entry, epochs))
    ]
    if not whole and not promised:
        return None
    each = mean(whole or promised)
    waiting = sum(entry.status is Status.WAITING for entry in entries)
    work = each * (waiting + sum(1 - fraction(entry, epochs) for entry in running))
    return work / max(1, min(jobs, waiting + len(running)))


def last_lines(log: Path, count: int = 12) -> list[str]:
    """Return the last lines of a log that are not empty."""
    try:
        text = log.read_text(errors="replace")
    except OSError as error:
        return [f"({log} cannot be read: {error.strerror})"]
    lines = [line.rpartition("\r")[2].rstrip() for line in text.splitlines()]
    return [line for line in lines if line][-count:]


def counts(entries: Sequence[Any]) -> str:
    """Return ``12 of 18 finished (3 kept), 2 running, 4 waiting, 1 failed``."""
    number = {status: sum(e.status is status for e in entries) for status in Status}
    done = number[Status.KEPT] + number[Status.DONE]
    kept = f" ({number[Status.KEPT]} kept)" if number[Status.KEPT] else ""
    labels = {
        Status.RUNNING: "running",
        Status.WAITING: "waiting",
        Status.ELSEWHERE: "run elsewhere",
        Status.STOPPED: "stopped",
        Status.FAILED: "failed",
    }
    others = [f"{number[status]} {label}" for status, label in labels.items() if number[status]]
    return ", ".join([f"{done} of {len(entries)} finished{kept}", *others])
