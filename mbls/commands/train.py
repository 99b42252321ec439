"""``mbls train``: names in, a trained and tested run folder out.

It layers the choices' YAML files, prepares the data as a step of its own, fits, and tests the best
checkpoint. Everything heavy is imported after the names are known to be right.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mbls.benchmark.cells import finished
from mbls.config.options import Settings, parse, parser, to_argv
from mbls.config.runs import run_settings, stated
from mbls.runtime.ranks import print_once

if TYPE_CHECKING:
    from mbls.config.cli import CommandLine

__all__ = ["main"]

ABOUT = """Train a network on a dataset with a loss, and test its best checkpoint. Further options
go to LightningCLI as they are, e.g. --trainer.gradient_clip_val 1."""


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
            test_best(cli)  # a fast_dev_run has no checkpoint
    finally:
        folder_callback(cli.trainer).release()
    return 0


def announce(settings: Settings) -> None:
    """Print what was chosen."""
    names = {name: stated(settings, f"run.{name}") for name in ("dataset", "loss", "network")}
    names |= {"preset": Path(stated(settings, "card.preset")).stem}
    names |= {"epochs": stated(settings, "trainer.max_epochs")}
    names |= {"seed": stated(settings, "seed_everything")}
    print_once(" · ".join(f"{name} {value}" for name, value in names.items()))


def test_best(cli: "CommandLine") -> None:
    """Test the best checkpoint of a run that has just been trained, or its last."""
    from mbls.callbacks import find_checkpoint
    from mbls.callbacks.run_folder import folder_callback
    from mbls.runtime.rank_zero import on_rank_zero

    run = folder_callback(cli.trainer)

    def choose() -> Path:  # on one rank: another node may see a new file later
        has_best = (run.path / "checkpoints" / "best.ckpt").is_file()
        return find_checkpoint(run.path, "best" if has_best else "last")

    checkpoint = on_rank_zero(cli.trainer, choose)
    if checkpoint.stem == "last":
        print_once("No validation chose a best checkpoint: the last one is tested.")
        run.tag = "last"
    cli.trainer.test(
        cli.model, cli.datamodule, ckpt_path=checkpoint, weights_only=True, verbose=False
    )


def nothing_to_do(options: argparse.Namespace, rest: Settings) -> str | None:
    """Return a message where a run to resume is trained and tested, as far as is asked for."""
    more = any(name.startswith("trainer.max_") for name, _ in rest)
    if more or not finished(options.run):
        return None
    done = json.loads((options.run / "run.json").read_text())["epochs"]
    if options.epochs not in (None, done):
        return None
    epochs = f"{done} epoch{'s' * (done != 1)}"
    return (
        f"{options.run} is finished: trained for {epochs}, and tested. Nothing is done. To train "
        f"longer give EPOCHS={done + 1} or more (--epochs); to test again: make evaluate "
        f"RUN={options.run} (mbls evaluate {options.run})."
    )
