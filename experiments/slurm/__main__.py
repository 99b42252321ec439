"""``python -m experiments.slurm``: write and submit the batch script of a run or a sweep."""

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
from mbls.commands.benchmark import refuse_other_runs, sweep_cells
from mbls.config.options import Settings, parse, parser
from mbls.config.runs import setting_value
from mbls.runtime.errors import ChoiceError, OutputError, RunFolderError, UsageError

TIME = re.compile(r"\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+(:\d\d){0,2}")
ABOUT = "Write a batch script and submit it. Further options go to mbls train."


def main(args: list[str]) -> int:
    """Print the script, or submit it and print how to watch the job."""
    p = parser("slurm", ABOUT, prog="python -m experiments.slurm")
    p.set_defaults(nodes=1, devices=1, time="24:00:00", root=Path("runs"))
    options, rest = parse(p, args)
    options.losses = options.losses or options.loss
    if options.losses is None:
        raise UsageError('--losses is needed, such as "ce mbls:margin=3".')
    if not TIME.fullmatch(options.time):
        raise UsageError(f"TIME must be as in 24:00:00, 2-12 or 90 (minutes), got {options.time}.")
    options.seeds = options.seeds or [options.seed or 0]
    if options.folds is None and options.fold is not None:
        options.folds = [options.fold]
    site = load_site(options.site)
    cells = sweep_cells(options, rest)
    refuse_other_runs(cells)
    check_batch(cells[0], ranks=options.nodes * options.devices)
    check_settings(cells[0], rest, precision=options.precision)
    commands = [command for cell in cells if (command := command_of(cell)) is not None]
    if not commands:
        _print("Every run of this sweep is finished already; nothing is submitted.")
        return 0
    job = Job(
        name="-".join([Path(options.dataset).stem, *dict.fromkeys(c.loss.name for c in cells)][:3]),
        commands=commands,
        nodes=options.nodes,
        devices=options.devices,
        time=options.time,
        cpu=options.accelerator == "cpu",
    )
    script = batch_script(job, site)
    if options.dry:
        sys.stdout.write(script)
        return 0
    submit(script, job, site)
    return 0


def command_of(cell: Cell) -> list[str] | None:
    """Return the arguments of ``mbls`` for a run, None if it is finished.

    Raises:
        RunFolderError: Its folder is in use, or has no checkpoint to resume from and may be.
    """
    state = cell.state()
    if state is State.FINISHED:
        sys.stderr.write(f"{cell.folder} is finished and is left out.\n")
        return None
    if state is State.BROKEN:
        raise RunFolderError(
            f"{cell.folder} exists and has no checkpoint: a run has just started in it, or died "
            "early. Wait for the one, delete the folder of the other, or take another SEED."
        )
    args = None if state is State.LOCKED else cell.next_args()
    if args is None:
        raise RunFolderError(f"A training is running in {cell.folder}. Wait for its end.")
    return args


def check_batch(cell: Cell, *, ranks: int) -> None:
    """Refuse a batch that the ranks cannot share, before it waits in the queue."""
    size = setting_value(cell.settings(), "data.init_args.batch_size")
    if size is not None and int(size) % ranks:
        raise ChoiceError(
            f"batch_size counts the samples over all {ranks} ranks and must be a multiple of "
            f"{ranks}, got {size}. Take BATCH_SIZE={-(-int(size) // ranks) * ranks}, or other "
            "NODES and DEVICES."
        )


def check_settings(cell: Cell, rest: Settings, *, precision: str | None) -> None:
    """Refuse settings that only LightningCLI knows; its imports take seconds, the queue days."""
    if rest or precision:
        from mbls.config.cli import resolve

        list(resolve([cell.settings()]))


def submit(script: str, job: Job, site: Site) -> None:
    """Keep the script with the logs, and hand it to sbatch."""
    if shutil.which("sbatch") is None:
        raise OutputError("There is no sbatch here: go to a login node, or look first with DRY=1.")
    site.logs.mkdir(parents=True, exist_ok=True)
    file = site.logs / f"{job.name}-{time.strftime('%Y%m%d-%H%M%S')}.sh"
    file.write_text(script)
    done = subprocess.run(["sbatch", "--parsable", str(file)], capture_output=True, text=True)
    if done.returncode:
        raise OutputError(f"sbatch refused {file}: {done.stderr.strip()}")
    number = done.stdout.strip().partition(";")[0]
    for command in job.commands:
        _print(f"Run folder: {command[command.index('--run') + 1]}")
    _print(f"Job {number} from {file}; what it prints: {site.logs}/{job.name}-{number}*.out")


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def run(args: Sequence[str]) -> int:
    """Run, and show errors of the user without a traceback."""
    try:
        return main(list(args))
    except (ChoiceError, OutputError, RunFolderError) as error:
        sys.stderr.write(f"slurm: {error}\n")
        return 2 if isinstance(error, ChoiceError) else 1


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
