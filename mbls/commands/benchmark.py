"""``mbls benchmark``: losses times seeds times folds, trained, tested and reported.

It runs what is missing: a finished run is kept, a stopped one is resumed, a broken one starts from
scratch. Everything heavy happens in the runs' own processes.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mbls.benchmark import Cell, State, log_file, make_cells, parse_losses
from mbls.benchmark.progress import counts, last_lines
from mbls.benchmark.runner import Entry, Runner, Status
from mbls.benchmark.views import make_view
from mbls.config.identity import config_hash, differences
from mbls.config.moved import read_run_config
from mbls.config.options import Settings, given, parse, parser, to_argv
from mbls.config.runs import setting_value
from mbls.runtime.errors import RunFolderError
from mbls.runtime.threads import cpus

__all__ = ["main", "refuse_other_runs", "shared_args", "sweep_cells"]

# Defaults without --losses: claims need seeds, and 25 minutes on two cores are affordable.
DEFAULT_LOSSES = "ce ce_dice ls focal mbls nacl"
DEFAULT_PRESET = "small"
DEFAULT_ROOT = Path("runs/benchmark")  # runs of `make train` have other settings
UNFINISHED = (Status.STOPPED, Status.WAITING, Status.ELSEWHERE)  # the same command resumes them

ABOUT = f"""Train and test each loss with each seed, and report. Finished runs are kept. Without
--losses they are "{DEFAULT_LOSSES}", with --preset {DEFAULT_PRESET}; without --seeds "0 1 2"."""


def main(args: list[str]) -> int:
    """Run a sweep, then report what is finished."""
    options, rest = parse(parser("benchmark", ABOUT), args)
    cells = sweep_cells(options, rest)
    if options.list:
        for cell in cells:
            sys.stdout.write(f"{cell.state():<9} mbls {shlex.join(cell.args())}\n")
        return 0
    refuse_other_runs(cells)
    console = Console()
    jobs = options.jobs or (cpus() if options.losses is None else 1)
    entries = run(cells, jobs=jobs, console=console)
    console.print(f"{counts(entries)}.", highlight=False)
    if any(entry.status in UNFINISHED for entry in entries):
        console.print("The same command resumes.", highlight=False)
        return 130
    failed = [entry for entry in entries if entry.status is Status.FAILED]
    for entry in failed:
        print_failure(console, entry)
    if not options.no_report:
        report(cells)
    return 1 if failed else 0


def sweep_cells(options: argparse.Namespace, rest: Settings) -> list[Cell]:
    """Return the cells of a benchmark, or of the jobs of a cluster.

    Raises:
        ChoiceError: A name that does not exist.
    """
    default = options.losses is None
    options.dataset = options.dataset or "acdc"
    if default and options.preset is None and options.data_root is None:
        options.preset = DEFAULT_PRESET
    return make_cells(
        parse_losses(DEFAULT_LOSSES if default else options.losses),
        [0, 1, 2] if options.seeds is None else options.seeds,
        [None] if options.folds is None else options.folds,
        train_args=shared_args(options, rest),
        root=options.root or (DEFAULT_ROOT if default else Path("runs")),
    )


def shared_args(options: argparse.Namespace, rest: Settings) -> list[str]:
    """Return the arguments of ``mbls train`` that the runs of a sweep share."""
    own = parser("train", None)._option_string_actions
    args: list[str] = []
    for option, value in given(options):
        if option.flag in own and option.name not in ("loss", "seed", "fold", "dry"):
            args += [option.flag] if value is True else [option.flag, str(value)]
    return [*args, *to_argv(rest)]


def refuse_other_runs(cells: Sequence[Cell]) -> None:
    """Raise RunFolderError if an existing run has other settings than the sweep."""
    started = [c for c in cells if c.state() in (State.FINISHED, State.STOPPED, State.LOCKED)]
    started = [cell for cell in started if (cell.folder / "config.yaml").is_file()]
    if not started:
        return
    from mbls.config.cli import resolve

    for cell, wanted in zip(started, resolve([cell.settings() for cell in started]), strict=True):
        found = read_run_config(cell.folder / "config.yaml")
        if config_hash(wanted) == recorded_hash(cell.folder, found):
            continue
        if differing := differences(wanted, found):
            more = f", and {len(differing) - 3} more" if len(differing) > 3 else ""
            raise RunFolderError(
                f"{cell.folder} has other settings than this sweep: "
                f"{'; '.join(differing[:3])}{more}. Choose another folder for the sweep, "
                "ROOT=FOLDER (--root), or remove the run."
            )


def recorded_hash(run: Path, config: dict[str, Any]) -> str:
    """Return the hash of a run's configuration, from run.json or computed from config.yaml."""
    try:
        return str(json.loads((run / "run.json").read_text())["config_hash"])
    except (OSError, ValueError, KeyError):
        return config_hash(config)


def run(cells: Sequence[Cell], *, jobs: int, console: Console) -> list[Entry]:
    """Run the cells that are not finished, and show their progress."""
    title = f"{cells[0].folder.parent.parent.name}: {len(cells)} runs, {jobs} at a time"
    epochs = int(setting_value(cells[0].settings(), "trainer.max_epochs"))
    with make_view(console, title=title, jobs=jobs, epochs=epochs) as view:
        return Runner(cells, jobs=jobs, view=view).run()


def print_failure(console: Console, entry: Entry) -> None:
    """Print the last lines of a failed run's log."""
    log = log_file(entry.cell.folder)
    console.print(f"\n{entry.cell.name} failed (exit {entry.code}), {log}:", style="bold red",
                  markup=False, highlight=False, soft_wrap=True)  # fmt: skip
    for line in last_lines(log):
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def report(cells: Sequence[Cell]) -> None:
    """Report on the finished runs of a sweep, compared with its first loss."""
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
        compared += ["--tag", "last"]  # without validation there is no best checkpoint
    report([*folders, "--output", str(home / "report"), *compared])
