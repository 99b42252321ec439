"""``mbls benchmark``: losses times seeds times folds, trained, tested and reported.

It runs what is missing: a finished run is kept, a stopped one goes on, a broken one starts anew.
Everything heavy happens in the runs' own processes.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mbls.benchmark import Cell, State, log_file, make_cells, parse_losses
from mbls.benchmark.asked import asked, differences
from mbls.benchmark.progress import counts, last_lines
from mbls.benchmark.runner import Entry, Runner, Status
from mbls.benchmark.views import make_view
from mbls.config.options import parser as train_parser
from mbls.config.wrong_words import refuse_unknown
from mbls.runtime.errors import ChoiceError, RunFolderError
from mbls.runtime.threads import cpus

__all__ = ["at_least_one", "grid_cells", "main", "numbers", "parser", "refuse_other_runs"]

# The benchmark of a run without --losses: claims need seeds, and 25 minutes of two cores are few.
DEFAULT_LOSSES = "ce ce_dice ls focal mbls nacl"
DEFAULT_PRESET = "small"
LEFT = (Status.STOPPED, Status.WAITING, Status.ELSEWHERE)  # for the same command to go on with
DEFAULT_ROOT = Path(
    "runs/benchmark"
)  # beside the runs of `make train`, which are of other settings


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``mbls benchmark``."""
    p = argparse.ArgumentParser(
        prog="mbls benchmark",
        usage="%(prog)s [options]",
        allow_abbrev=False,
        description="Train and test each loss with each seed, and report. Finished runs are kept. "
        "Options of mbls train (--network, --data-root, --epochs, ...) hold for every run.",
    )
    p.add_argument("--losses", metavar="WORDS", help='e.g. "ce mbls:margin=3 '
                   f'mbls:margin=10,alpha=0.3"; without it "{DEFAULT_LOSSES}" with --preset '
                   f"{DEFAULT_PRESET}")  # fmt: skip
    p.add_argument("--seeds", type=numbers, default=[0, 1, 2], metavar="NUMBERS",
                   help='default "0 1 2"')  # fmt: skip
    p.add_argument("--folds", type=numbers, metavar="NUMBERS", help='e.g. "0 1 2 3 4"')
    p.add_argument("--root", type=Path, metavar="FOLDER",
                   help=f"where runs are kept (runs; without --losses {DEFAULT_ROOT})")  # fmt: skip
    p.add_argument("--jobs", type=at_least_one, metavar="N",
                   help="runs at a time; cores are divided among them (default: 1; in the "
                   "benchmark without --losses one a core)")  # fmt: skip
    p.add_argument("--list", action="store_true", help="print each run's state and command, stop")
    p.add_argument("--no-report", action="store_true", help="stop before the report")
    return p


def main(args: list[str]) -> int:
    """Run a grid, then report what is finished."""
    options, rest = parser().parse_known_args(args)
    cells = grid_cells(options, rest)
    if options.list:
        _list(cells)
        return 0
    refuse_other_runs(cells)
    console = Console()
    jobs = options.jobs or (cpus() if options.losses is None else 1)
    entries = run(cells, jobs=jobs, console=console)
    console.print(f"{counts(entries)}.", highlight=False)
    if any(entry.status in LEFT for entry in entries):
        console.print("The same command goes on.", highlight=False)
        return 130
    failed = [entry for entry in entries if entry.status is Status.FAILED]
    for entry in failed:
        tell_failure(console, entry)
    if not options.no_report:
        report(cells)
    return 1 if failed else 0


def grid_cells(options: argparse.Namespace, rest: Sequence[str]) -> list[Cell]:
    """Return the cells of a grid.

    Args:
        options: What :func:`parser` parsed.
        rest: The other words, those of ``mbls train``.

    Raises:
        ChoiceError: A name that does not exist, or an option that a grid sets itself.
    """
    words = list(rest)
    given, unknown = train_parser().parse_known_args(words)
    _refuse_own(given)
    refuse_unknown(unknown, parser(), train_parser())
    if given.dataset is None:
        words += ["--dataset", "acdc"]
    if options.losses is None and given.preset is None and given.data_root is None:
        words += ["--preset", DEFAULT_PRESET]
    losses = parse_losses(DEFAULT_LOSSES if options.losses is None else options.losses)
    folds = [None] if options.folds is None else options.folds
    root = options.root or (DEFAULT_ROOT if options.losses is None else Path("runs"))
    return make_cells(losses, options.seeds, folds, train_words=words, root=root)


def refuse_other_runs(cells: Sequence[Cell]) -> None:
    """Raise RunFolderError where a run was made with other settings than the grid's."""
    for cell in cells:
        if cell.state() not in (State.FINISHED, State.STOPPED, State.HELD):
            continue
        if told := differences(cell):
            more = f", and {len(told) - 3} more" if len(told) > 3 else ""
            raise RunFolderError(
                f"{cell.folder} was made with other settings than this grid's: "
                f"{'; '.join(told[:3])}{more}. Give the grid a place of its own, ROOT=FOLDER "
                "(--root), or remove the run."
            )


def run(cells: Sequence[Cell], *, jobs: int, console: Console) -> list[Entry]:
    """Run what is missing, and show it."""
    title = f"{cells[0].folder.parent.parent.name}: {len(cells)} runs, {jobs} at a time"
    epochs = int(asked(cells[0])["trainer"]["max_epochs"])
    with make_view(console, title=title, jobs=jobs, epochs=epochs) as view:
        return Runner(cells, jobs=jobs, view=view).run()


def tell_failure(console: Console, entry: Entry) -> None:
    """Print the last lines of a failed run's log."""
    log = log_file(entry.cell.folder)
    console.print(f"\n{entry.cell.name} failed (exit {entry.code}), {log}:", style="bold red",
                  markup=False, highlight=False, soft_wrap=True)  # fmt: skip
    for line in last_lines(log):
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def report(cells: Sequence[Cell]) -> None:
    """Report on the finished runs of a grid, compared with its first loss."""
    finished = [cell for cell in cells if cell.state() is State.FINISHED]
    if not finished:
        return
    from mbls.commands.report import main as report

    folders = [str(cell.folder) for cell in finished]
    home = finished[0].folder.parent.parent
    reference = cells[0].loss.label
    compared = (
        ["--reference", reference] if any(c.loss.label == reference for c in finished) else []
    )
    if not any((cell.folder / "test/best").is_dir() for cell in finished):
        compared += ["--tag", "last"]  # trained without validation, so without a best checkpoint
    report([*folders, "--output", str(home / "report"), *compared])


def _list(cells: Sequence[Cell]) -> None:
    for cell in cells:
        sys.stdout.write(f"{cell.state():<9} mbls {shlex.join(cell.words())}\n")


def _refuse_own(given: argparse.Namespace) -> None:
    instead = {"loss": "--losses", "seed": "--seeds", "fold": "--folds", "run": "--root"}
    for name, option in instead.items():
        if getattr(given, name) is not None:
            raise ChoiceError(f"A grid has {option} in place of --{name}.")
    for name in ("resume", "dry_run", "job", "prepare"):
        if getattr(given, name):
            option = "--" + name.replace("_", "-")
            raise ChoiceError(f"A grid has no {option}: the same command goes on, --list shows it.")


def numbers(text: str) -> list[int]:
    """Read ``"0 1 2"`` or ``"0,1,2"``."""
    words = text.replace(",", " ").split()
    if not words or not all(word.isdecimal() for word in words):
        raise argparse.ArgumentTypeError(f'must be whole numbers, "0 1 2", got {text!r}')
    if len(set(words)) < len(words):
        raise argparse.ArgumentTypeError(f"must differ, got {text!r}")
    return [int(word) for word in words]


def at_least_one(word: str) -> int:
    """Read a whole number of at least 1."""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {word}")
    return int(word)
