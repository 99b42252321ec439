"""The console script ``mbls``: a small dispatcher.

It imports nothing heavy, which keeps ``mbls --help`` and the answer to a typo fast: torch,
lightning and monai are imported when work starts.
"""

import atexit
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from mbls import __version__
from mbls.config.choices import did_you_mean
from mbls.runtime.errors import message_for_user
from mbls.runtime.ranks import (
    end_with_parent,
    in_job,
    is_child_rank,
    is_worker,
    leave_job,
    rank_prefix,
)
from mbls.runtime.threads import set_defaults

__all__ = ["main"]

# command -> (module with a ``main(args)``, what it does)
COMMANDS = {
    "train": ("mbls.commands.train", "train on a dataset with a loss, test the best checkpoint"),
    "evaluate": ("mbls.commands.evaluate", "test a run's checkpoint again"),
    "predict": ("mbls.commands.predict", "segment NIfTI files with a run's checkpoint"),
    "audit": ("mbls.commands.audit", "score probability maps of any program, such as nnU-Net's"),
    "calibrate": ("mbls.commands.calibrate", "fit a post-hoc calibrator, report before and after"),
    "thresholds": ("mbls.commands.thresholds", "choose a threshold a class, report what it gives"),
    "refer": ("mbls.commands.refer", "order cases by confidence, and refer the least confident"),
    "shift": ("mbls.commands.shift", "test a run on corrupted images, as curves"),
    "regret": (
        "mbls.commands.regret",
        "what a run on a phantom loses to the best answer, by cause",
    ),
    "volumes": ("mbls.commands.volumes", "volumes in ml with an interval for each case"),
    "guarantee": ("mbls.commands.guarantee", "masks that surely contain a structure, or are in it"),
    "apply": ("mbls.commands.apply", "calibrate probability maps of any program, in their format"),
    "decide": ("mbls.commands.decide", "write label maps of probability maps by another rule"),
    "ensemble": ("mbls.commands.ensemble", "average probability maps of several folders"),
    "benchmark": ("mbls.commands.benchmark", "train, test and compare losses over seeds"),
    "report": ("mbls.commands.report", "compare finished runs: tables, figures, one HTML file"),
    "data": ("mbls.commands.data", "write the phantom where no data is given, build the cache"),
    "check-data": ("mbls.commands.check_data", "check every case and list all problems"),
    "splits": ("mbls.commands.splits", "write the folds of a dataset's patients as JSON"),
    "cache-info": ("datamodules.cache.commands", "list the caches: dataset, settings, size, age"),
    "cache-clean": ("datamodules.cache.commands", "remove caches that nothing uses any more"),
    "list": ("mbls.commands.list_choices", "list datasets, losses, networks and presets"),
    "losses": ("mbls.commands.losses", "print the table of the losses, with formulas and papers"),
    "fit": ("mbls.config.cli", "LightningCLI: fit --config FILE ..."),
    "validate": ("mbls.config.cli", "LightningCLI: validate --config FILE ..."),
    "test": ("mbls.config.cli", "LightningCLI: test --config FILE ..."),
}

USAGE = """mbls {version}: calibrated medical image segmentation

usage: mbls COMMAND [options]      (mbls COMMAND --help for a command's options)

{commands}
"""


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status.

    0 done, 1 the work failed, 2 wrong arguments, 128 + n stopped by signal n with a checkpoint.
    """
    argv = list(sys.argv[1:] if args is None else args)
    if not argv or argv[0] in ("-h", "--help", "help"):
        sys.stdout.write(usage())
        return 0
    if argv[0] in ("--version", "-V"):
        sys.stdout.write(f"mbls {__version__}\n")
        return 0
    command = argv[0]
    if command not in COMMANDS:
        hint = did_you_mean(command, COMMANDS)
        known = ", ".join(COMMANDS)
        sys.stderr.write(f"mbls: unknown command {command!r}.{hint} There are: {known}.\n")
        return 2
    if is_child_rank():
        end_with_parent()
    add_current_folder()
    try:
        status = run(command, argv[1:])
    except KeyboardInterrupt:  # before training takes over the signals
        sys.stderr.write("\nInterrupted.\n")
        return 130
    except Exception as error:
        status = report(command, error)
        if in_job():  # a normal exit would wait for other ranks, and they for this one
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        return status
    atexit.unregister(leave_job)
    atexit.register(leave_job)  # the other ranks have finished as well
    return status


def report(command: str, error: Exception) -> int:
    """Print an error, and return the exit status.

    Only rank 0 reports an error that all ranks raise; the others return 0, since a launcher kills
    rank 0 as soon as another rank fails.
    """
    of_all = getattr(error, "of_all_ranks", False)
    if of_all and is_worker():
        return 0
    message = message_for_user(error)
    if message is None or os.environ.get("MBLS_TRACEBACK"):
        traceback.print_exception(error)
    if message is not None:
        sys.stderr.write(f"\nmbls {command}: {'' if of_all else rank_prefix()}{message}\n")
    return int(getattr(error, "status", 1))


def run(command: str, args: list[str]) -> int:
    """Import a command's module and run it."""
    set_defaults()
    module = importlib.import_module(COMMANDS[command][0])
    if command in ("fit", "validate", "test", "cache-info", "cache-clean"):
        args = [command, *args]
    return int(module.main(args) or 0)


def add_current_folder() -> None:
    """Append the current folder to ``sys.path``, so a ``class_path`` can name a module in it.

    ``python -m mbls.cli`` does this by itself; a console script does not.
    """
    here = str(Path.cwd())
    if not sys.flags.safe_path and here not in sys.path:
        sys.path.append(here)


def usage() -> str:
    """Return the help text."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return USAGE.format(version=__version__, commands="\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
