"""``mbls train``: names in, a trained and tested run folder out.

It layers the choices' YAML files, prepares the data as a step of its own, fits, and tests the best
checkpoint. Everything heavy is imported after the names are known to be right.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mbls.config.choices import choose, data_files, read_yaml, stated_dims
from mbls.config.options import (
    chosen_names,
    config_of,
    data_words,
    dim_words,
    fresh_words,
    option_words,
    options_of,
    parser,
    requeued,
    require,
    resume_words,
)
from mbls.config.wrong_words import refuse_unknown
from mbls.runtime.ranks import say

if TYPE_CHECKING:
    from mbls.config.cli import CommandLine

__all__ = ["main"]


def main(args: list[str]) -> int:
    """Train, then test the best checkpoint."""
    options, rest = requeued(*parser().parse_known_args(args))
    refuse_unknown(rest, parser())
    if options.prepare:
        prepare(options, rest)
        return 0
    words = resume_words(options, rest) if options.resume else fresh_words(options, rest)
    words += option_words(options) + rest
    if options.dry_run:
        sys.stdout.write("mbls fit " + shlex.join(words) + "\n")
        return 0
    if options.resume and (told := finished_before(options, rest)):
        say(told)
        return 0

    from mbls.callbacks.run_folder import folder_callback
    from mbls.config.cli import command_line

    cli = command_line(["fit", *words])
    try:
        if not cli.trainer.fast_dev_run:  # type: ignore[attr-defined]
            test_best(cli)  # of the other there is no checkpoint
    finally:
        folder_callback(cli.trainer).release()
    return 0


def test_best(cli: "CommandLine") -> None:
    """Test the best checkpoint of a run that has just been trained, or its last."""
    from mbls.callbacks import find_checkpoint
    from mbls.callbacks.run_folder import folder_callback
    from mbls.config.cli import one_voice
    from mbls.runtime.rank_zero import on_rank_zero

    run = folder_callback(cli.trainer)

    def choose() -> Path:  # on one rank: another node may see a new file later
        there = (run.path / "checkpoints" / "best.ckpt").is_file()
        return find_checkpoint(run.path, "best" if there else "last")

    with one_voice():
        checkpoint = on_rank_zero(cli.trainer, choose)
        if checkpoint.stem == "last":
            say("No validation chose a best checkpoint: the last one is tested.")
            run.tag = "last"
        cli.trainer.test(
            cli.model, cli.datamodule, ckpt_path=checkpoint, weights_only=True, verbose=False
        )


def prepare(options: argparse.Namespace, rest: list[str]) -> None:
    """Prepare the data that a run would, and nothing else."""
    from mbls.commands.data import datamodule_of

    if options.resume:
        stated = read_yaml(config_of(options.run))
        configs = [json.dumps({"data": stated["data"]})]
    else:
        require(options, "dataset")
        names = chosen_names(options)
        dims = options.dim or stated_dims(choose("network", names["network"]))
        configs = [str(file) for file in data_files(names["dataset"], names["preset"], dims)]
        rest = [*dim_words(options, names["network"]), *rest]
    datamodule_of(configs, data_words([*option_words(options), *rest])).prepare()


def finished_before(options: argparse.Namespace, rest: Sequence[str]) -> str | None:
    """Return what is told where a run to go on in is trained and tested, as far as is asked for."""
    from mbls.benchmark.cells import finished

    more = any(key.startswith("trainer.max_") for key, _ in options_of(rest))
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
