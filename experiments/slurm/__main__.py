"""``python -m experiments.slurm``: write the batch script of a run, or of a grid, and submit it."""

import argparse
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.slurm.script import Job, batch_script
from experiments.slurm.site import Site, load_site
from mbls.benchmark import Cell, State
from mbls.benchmark.asked import asked
from mbls.commands.benchmark import at_least_one, grid_cells, numbers, refuse_other_runs
from mbls.config.options import chosen_words, option_words
from mbls.config.options import parser as train_parser
from mbls.runtime.errors import ChoiceError, RunFolderError

TIME = re.compile(r"\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+(:\d\d){0,2}")


def parser() -> argparse.ArgumentParser:
    """Return the parser; what it does not know goes to ``mbls train``."""
    p = argparse.ArgumentParser(
        prog="python -m experiments.slurm",
        allow_abbrev=False,
        description="Write a batch script and submit it. Further options go to mbls train.",
    )
    p.add_argument("--losses", required=True, help='such as "ce mbls:margin=3"')
    for many, one in (("--seeds", "--seed"), ("--folds", "--fold")):
        p.add_argument(many, one, type=numbers, metavar="NUMBERS", help='such as "0 1 2"')
    p.add_argument("--root", type=Path, default=Path("runs"), help="where runs are kept (runs)")
    p.add_argument("--nodes", type=at_least_one, default=1)
    p.add_argument("--devices", type=at_least_one, default=1, help="ranks a node")
    p.add_argument("--time", default="24:00:00", help="limit: HH:MM:SS, D-HH, minutes (24:00:00)")
    p.add_argument("--site", type=Path, metavar="FILE", help="your own changes to site.yaml")
    p.add_argument("--dry-run", action="store_true", help="print the script, submit nothing")
    p.set_defaults(seeds=[0])
    return p


def main(args: list[str]) -> int:
    """Print the script, or submit it and say how to watch the job."""
    options, rest = parser().parse_known_args(args)
    if not TIME.fullmatch(options.time):
        raise ChoiceError(f"TIME must be as in 24:00:00, 2-12 or 90 (minutes), got {options.time}.")
    site = load_site(options.site)
    rest += ["--nodes", str(options.nodes), "--devices", str(options.devices)]
    cells = grid_cells(options, rest)
    refuse_other_runs(cells)
    check_batch(cells[0], ranks=options.nodes * options.devices)
    check_options(cells[0], rest)
    commands = [command for cell in cells if (command := command_of(cell)) is not None]
    if not commands:
        _say("Every run of this grid is finished already; nothing is submitted.")
        return 0
    given, _ = train_parser().parse_known_args(rest)
    job = Job(
        name="-".join([Path(given.dataset).stem, *dict.fromkeys(c.loss.name for c in cells)][:3]),
        commands=commands,
        nodes=options.nodes,
        devices=options.devices,
        time=options.time,
        cpu=given.accelerator == "cpu",
    )
    script = batch_script(job, site)
    if options.dry_run:
        sys.stdout.write(script)
        return 0
    submit(script, job, site)
    return 0


def command_of(cell: Cell) -> list[str] | None:
    """Return the words of ``mbls`` for a run, None if it is finished.

    Raises:
        RunFolderError: Its folder is in use, or has no checkpoint to go on from and may be.
    """
    state = cell.state()
    if state is State.FINISHED:
        sys.stderr.write(f"{cell.folder} is finished and is left out.\n")
        return None
    if state is State.BROKEN:
        raise RunFolderError(
            f"{cell.folder} is there and has no checkpoint: a run has just begun in it, or died "
            "early. Wait for the one, delete the folder of the other, or take another SEED."
        )
    words = None if state is State.HELD else cell.next_words()
    if words is None:
        raise RunFolderError(f"A training is at work in {cell.folder}. Wait for its end.")
    return words


def check_batch(cell: Cell, *, ranks: int) -> None:
    """Refuse a batch that the ranks cannot share, before it waits in the queue."""
    size = asked(cell)["data"]["init_args"].get("batch_size")
    if isinstance(size, int) and size % ranks:
        raise ChoiceError(
            f"batch_size counts the samples over all {ranks} ranks and must be a multiple of "
            f"{ranks}, got {size}. Take BATCH_SIZE={-(-size // ranks) * ranks}, or other NODES "
            "and DEVICES."
        )


def check_options(cell: Cell, rest: Sequence[str]) -> None:
    """Refuse options that LightningCLI alone knows; its imports take seconds, the queue days."""
    given = [word.partition("=")[0] for word in rest if word.startswith("--")]
    if not any("." in name or name == "--precision" for name in given):
        return
    from mbls.config.cli import check_words

    options, others = train_parser().parse_known_args(cell.words()[1:])
    check_words(["fit", *chosen_words(options), *option_words(options), *others])


def submit(script: str, job: Job, site: Site) -> None:
    """Keep the script with the logs, and hand it to sbatch."""
    if shutil.which("sbatch") is None:
        raise ChoiceError("There is no sbatch here: go to a login node, or look first with DRY=1.")
    site.logs.mkdir(parents=True, exist_ok=True)
    file = site.logs / f"{job.name}-{time.strftime('%Y%m%d-%H%M%S')}.sh"
    file.write_text(script)
    done = subprocess.run(["sbatch", "--parsable", str(file)], capture_output=True, text=True)
    if done.returncode:
        raise ChoiceError(f"sbatch refused {file}: {done.stderr.strip()}")
    number = done.stdout.strip().partition(";")[0]
    for command in job.commands:
        _say(f"Run folder: {command[command.index('--run') + 1]}")
    _say(f"Job {number} from {file}; what it prints: {site.logs}/{job.name}-{number}*.out")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def run(args: Sequence[str]) -> int:
    """Run, and show what a user can mend without a traceback."""
    try:
        return main(list(args))
    except (ChoiceError, RunFolderError) as error:
        sys.stderr.write(f"slurm: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
