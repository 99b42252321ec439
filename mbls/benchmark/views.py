"""Display a running sweep: a live table in a terminal, one line per event elsewhere."""

import time
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mbls.benchmark.progress import counts, epochs_done, fraction, result, seconds_left
from mbls.benchmark.runner import Entry, Status
from mbls.runtime.clock import clock, duration, stamped

__all__ = ["LineView", "LiveView", "make_view"]

MARKS = {
    Status.KEPT: ("✓", "green"),
    Status.DONE: ("✓", "green"),
    Status.WAITING: ("·", "dim"),
    Status.RUNNING: ("▶", "cyan"),
    Status.ELSEWHERE: ("⇄", "magenta"),
    Status.FAILED: ("✗", "bold red"),
    Status.STOPPED: ("■", "yellow"),
}
STOPPING = "Stopping: runs finish their batch and write a checkpoint. A second signal kills them."
WIDEST = 4  # columns of numbers that fit into 80 characters


def make_view(console: Console, *, title: str, jobs: int, epochs: int) -> "LiveView | LineView":
    """Return a live view for a terminal, a line view otherwise."""
    view = LiveView if console.is_terminal else LineView
    return view(console, title=title, jobs=jobs, epochs=epochs)


class LineView:
    """One line per event, for logs.

    Args:
        console: The console to print to.
        title: First line.
        jobs: Number of cells that run at a time.
        epochs: Number of epochs of a run.
    """

    def __init__(self, console: Console, *, title: str, jobs: int, epochs: int) -> None:
        self.console, self.title, self.jobs, self.epochs = console, title, jobs, epochs

    def __enter__(self) -> "LineView":
        self._print(self.title)
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def started(self, entry: Entry, entries: Sequence[Entry]) -> None:
        """Print that a run has started or resumed."""
        event = "resumed" if entry.resumed else "started"
        self._print(f"{entry.cell.name} {event}; {counts(entries)}")

    def ended(self, entry: Entry, entries: Sequence[Entry]) -> None:
        """Print how a run ended, and when the sweep is expected to end."""
        left = seconds_left(entries, self.jobs, self.epochs)
        end = "" if left is None or left < 1 else f"; ends about {clock(left)}"
        took = "" if entry.seconds is None else f" in {duration(entry.seconds)}"
        numbers = numbers_of(entry)
        self._print(
            f"{entry.cell.name} {entry.status}{took}{numbers and f' ({numbers})'}; "
            f"{counts(entries)}{end}"
        )

    def tick(self, entries: Sequence[Entry]) -> None:
        """Do nothing."""

    def stopping(self, entries: Sequence[Entry]) -> None:
        """Print that a signal was caught."""
        self._print(STOPPING)

    def done(self, entries: Sequence[Entry]) -> None:
        """Do nothing: the last event was printed."""

    def _print(self, text: str) -> None:
        self.console.print(stamped(text), markup=False, highlight=False, soft_wrap=True)


class LiveView:
    """Table of losses by seeds, running cells, and the expected end; see :class:`LineView`."""

    def __init__(self, console: Console, *, title: str, jobs: int, epochs: int) -> None:
        self.console, self.title, self.jobs, self.epochs = console, title, jobs, epochs
        self.begin = self.drawn = time.monotonic()
        self.note = ""
        self.phantom = False
        self.numbers: dict[str, str] = {}  # results of finished runs, by folder
        self.live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> "LiveView":
        self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def started(self, entry: Entry, entries: Sequence[Entry]) -> None:
        """Draw."""
        self._draw(entries)

    ended = started

    def done(self, entries: Sequence[Entry]) -> None:
        """Draw the final table."""
        self._draw(entries)

    def tick(self, entries: Sequence[Entry]) -> None:
        """Draw once a second."""
        if time.monotonic() - self.drawn >= 1:
            self._draw(entries)

    def stopping(self, entries: Sequence[Entry]) -> None:
        """Show a note below the table from the next tick on."""
        self.note = STOPPING

    def _draw(self, entries: Sequence[Entry]) -> None:
        self.drawn = time.monotonic()
        self.live.update(self.render(entries), refresh=True)

    def render(self, entries: Sequence[Entry]) -> Group:
        """Return the renderable table, running cells and summary."""
        note = [Text(self.note, style="yellow")] if self.note else []
        summary = self._summary(entries)
        return Group(self._table(entries), *self._running(entries), summary, *note)

    def _table(self, entries: Sequence[Entry]) -> Table:
        columns = list(dict.fromkeys(entry.cell.column for entry in entries))
        table = Table(
            title=escape(self.title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
        )
        table.add_column("loss")
        for column in columns:
            table.add_column(escape(column), justify="right", no_wrap=True)
        rows: dict[str, dict[str, str]] = {}
        for entry in entries:
            cells = rows.setdefault(entry.cell.loss.label, {})
            cells[entry.cell.column] = self._cell(entry, wide=len(columns) <= WIDEST)
        for label, cells in rows.items():
            table.add_row(escape(label), *(cells.get(column, "") for column in columns))
        if any(e.status in (Status.KEPT, Status.DONE) for e in entries) and len(columns) <= WIDEST:
            phantom = "PHANTOM: " if self.phantom else ""
            table.caption = f"{phantom}mean Dice, ECE of all voxels; test set"
            table.caption_justify = "left"
        return table

    def _cell(self, entry: Entry, *, wide: bool) -> str:
        mark, style = MARKS[entry.status]
        text = mark
        if entry.status is Status.RUNNING:
            text = f"{mark} {fraction(entry, self.epochs):.0%}"
        elif wide and entry.status in (Status.KEPT, Status.DONE):
            text = f"{self._numbers(entry)} {mark}".strip()
        return f"[{style}]{text}[/{style}]"

    def _numbers(self, entry: Entry) -> str:
        name = str(entry.cell.folder)
        if name not in self.numbers and (found := result(entry.cell.folder)):
            self.numbers[name] = f"{found.dice:.3f} {found.ece:.3f}"
            self.phantom |= found.phantom
        return self.numbers.get(name, "")

    def _running(self, entries: Sequence[Entry]) -> list[Text]:
        now = time.monotonic()
        lines = []
        for entry in entries:
            if entry.status is Status.RUNNING:
                took = (duration(now - entry.started), "dim")
                text = f"{entry.cell.name}  {self._doing(entry)}  "
                lines.append(Text.assemble(("▶ ", "cyan"), text, took))
        return lines

    def _doing(self, entry: Entry) -> str:
        done = epochs_done(entry.cell.folder)
        return f"epoch {done + 1} of {self.epochs}" if done < self.epochs else "test"

    def _summary(self, entries: Sequence[Entry]) -> Text:
        left = seconds_left(entries, self.jobs, self.epochs)
        parts = [counts(entries), duration(time.monotonic() - self.begin)]
        if left is not None and left >= 1:
            parts.append(f"ends about {clock(left)}, in {duration(left)}")
        return Text(" · ".join(parts), style="bold")


def numbers_of(entry: Entry) -> str:
    """Return Dice and ECE of a finished cell, else an empty string."""
    if entry.status not in (Status.KEPT, Status.DONE):
        return ""
    found = result(entry.cell.folder)
    if found is None:
        return ""
    return f"Dice {found.dice:.4f}, ECE {found.ece:.4f}" + " PHANTOM" * found.phantom
