"""``mbls predict``: segment NIfTI files with a run's checkpoint.

Logits are resampled to each input's own grid, then the softmax is taken. With ``--config`` instead
of ``--run``, the words go to LightningCLI's ``predict`` as they are.
"""

import argparse
from pathlib import Path

from mbls.commands.evaluate import add_mirror, mirror_words, run_words
from mbls.config.wrong_words import refuse_unknown

__all__ = ["main"]


def main(args: list[str]) -> int:
    """Write a label map for each input, and its class probabilities if asked."""
    from_run = "--config" not in args and not any(a.startswith("--config=") for a in args)
    words = _words_from_run(args) if from_run else args

    from mbls.config.cli import command_line

    command_line(["predict", *words])
    return 0


def _words_from_run(args: list[str]) -> list[str]:
    p = argparse.ArgumentParser(prog="mbls predict", allow_abbrev=False, description=__doc__)
    p.add_argument("--run", type=Path, required=True, help="run folder")
    p.add_argument("--input", type=Path, required=True, help="a NIfTI file, or a folder of them")
    p.add_argument("--output", type=Path, required=True, help="folder for the label maps")
    p.add_argument("--ckpt", default="best", help="best, last, or a file (default: best)")
    p.add_argument("--probabilities", action="store_true", help="write class probabilities too")
    p.add_argument("--overwrite", action="store_true",
                   help="replace files in OUTPUT that are no predictions of mbls")  # fmt: skip
    add_mirror(p)
    options, rest = p.parse_known_args(args)
    refuse_unknown(rest, p)
    words = [*run_words(options.run, options.ckpt), *mirror_words(options)]
    words += ["--data.init_args.predict_input", str(options.input)]
    words += ["--predictions.output", str(options.output), "--return_predictions", "false"]
    for name in ("probabilities", "overwrite"):
        words += [f"--predictions.{name}", str(getattr(options, name)).lower()]
    return [*words, *rest]
