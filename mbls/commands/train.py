"""``mbls train``: train and test a network from the names of its configuration files.

It layers the YAML files, prepares the data, fits, and tests the best checkpoint. Heavy packages are
imported after the names have been validated.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mbls.benchmark.cells import finished
from mbls.config.options import Settings, parse, parser, to_argv
from mbls.config.runs import run_settings, setting_value
from mbls.runtime.ranks import print_once

if TYPE_CHECKING:
    from mbls.config.cli import CommandLine

__all__ = ["main"]

ABOUT = """Train a network on a dataset with a loss, and test its best checkpoint. Other options
are passed to LightningCLI, e.g. --trainer.gradient_clip_val 1."""


def main(args: list[str]) -> int:
    """Train, then test the best checkpoint."""
    options, rest = parse(parser("train", ABOUT), args)
    settings = run_settings(options, rest)
    if options.dry:
        sys.stdout.write("mbls fit " + shlex.join(to_argv(settings)) + "\n")
        return 0
    if options.prepare:
        from mbls.commands.data import datamodule_of

        datamodule_of(settings).prepare()
        return 0
    if options.resume and (message := nothing_to_do(options, rest)):
        print_once(message)
        return 0
    if not options.resume:
        announce(settings)

    from mbls.callbacks.run_folder import folder_callback
    from mbls.config.cli import command_line

    cli = command_line(["fit", *to_argv(settings)])
    try:
        if not cli.trainer.fast_dev_run:  # type: ignore[attr-defined]
            test_best(cli)  # fast_dev_run writes no checkpoint
    finally:
        folder_callback(cli.trainer).release()
    return 0


def announce(settings: Settings) -> None:
    """Print the chosen names and settings."""
    names = {
        name: setting_value(settings, f"run.{name}") for name in ("dataset", "loss", "network")
    }
    names |= {"preset": Path(setting_value(settings, "card.preset")).stem}
    names |= {"epochs": setting_value(settings, "trainer.max_epochs")}
    names |= {"seed": setting_value(settings, "seed_everything")}
    print_once(" · ".join(f"{name} {value}" for name, value in names.items()))


def test_best(cli: "CommandLine") -> None:
    """Test the best checkpoint of a run that was just trained, or the last without a best."""
    from mbls.callbacks import find_checkpoint
    from mbls.callbacks.run_folder import folder_callback
    from mbls.runtime.rank_zero import on_rank_zero

    run = folder_callback(cli.trainer)

    def choose() -> Path:  # on rank 0: other nodes may see a new file later
        has_best = (run.path / "checkpoints" / "best.ckpt").is_file()
        return find_checkpoint(run.path, "best" if has_best else "last")

    checkpoint = on_rank_zero(cli.trainer, choose)
    if checkpoint.stem == "last":
        print_once("There is no best checkpoint (no validation): testing the last one.")
        run.tag = "last"
    cli.trainer.test(
        cli.model, cli.datamodule, ckpt_path=checkpoint, weights_only=True, verbose=False
    )


def nothing_to_do(options: argparse.Namespace, rest: Settings) -> str | None:
    """Return a message if a run to resume is already trained and tested, else None."""
    more = any(name.startswith("trainer.max_") for name, _ in rest)
    if more or not finished(options.run):
        return None
    done = json.loads((options.run / "run.json").read_text())["epochs"]
    if options.epochs not in (None, done):
        return None
    epochs = f"{done} epoch{'s' * (done != 1)}"
    return (
        f"{options.run} is finished: trained for {epochs}, and tested. Nothing to do. To train "
        f"longer, set EPOCHS={done + 1} or more (--epochs); to test again: make evaluate "
        f"RUN={options.run} (mbls evaluate {options.run})."
    )
