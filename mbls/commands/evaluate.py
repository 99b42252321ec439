"""``mbls evaluate RUN``: test a run's checkpoint again, from the run folder alone."""

import argparse
from pathlib import Path

from mbls.errors import CheckpointError, RunFolderError

__all__ = ["add_mirror", "main", "mirror_words", "run_words"]


def main(args: list[str]) -> int:
    """Test one checkpoint of a run and write ``test/<tag>/``."""
    p = argparse.ArgumentParser(prog="mbls evaluate", allow_abbrev=False, description=__doc__)
    p.add_argument("run", type=Path, help="run folder")
    p.add_argument("--ckpt", default="best", help="best, last, or a file (default: best)")
    p.add_argument("--tag", help="folder below test/ (default: the checkpoint's name, with "
                   "-native and -mirrored where that is so)")  # fmt: skip
    p.add_argument("--grid", choices=("preprocessed", "native"), default="preprocessed",
                   help="where to score: on the cache's grid, or on that of the files")  # fmt: skip
    p.add_argument("--verbose", action="store_true", help="print all numbers of the test")
    add_mirror(p)
    options, rest = p.parse_known_args(args)
    if options.ckpt.endswith(".ckpt") and options.tag is None:
        path = Path(options.ckpt)
        if path.is_file() and path.resolve().parent != (options.run / "checkpoints").resolve():
            raise CheckpointError(
                f"{path} is not one of {options.run}/checkpoints: its results need a name of their "
                'own, --tag NAME (make: ARGS="--tag NAME").'
            )
    words = run_words(options.run, options.ckpt)
    suffix = ("-native" if options.grid == "native" else "") + (
        "-mirrored" if options.mirror else ""
    )
    words += ["--run.tag", options.tag or Path(options.ckpt).stem + suffix, "--verbose", "false"]
    words += [f"--results.verbose={options.verbose}"]
    words += [f"--model.grid={options.grid}", *mirror_words(options)]

    from mbls.commands.lightning import command_line

    command_line(["test", *words, *rest])
    return 0


def add_mirror(p: argparse.ArgumentParser) -> None:
    """Add the option for mirrored copies at test time."""
    p.add_argument("--mirror", type=_axes, default=[], metavar="AXES",
                   help="average logits over mirrorings along these axes, e.g. 0,1")  # fmt: skip


def mirror_words(options: argparse.Namespace) -> list[str]:
    """Return LightningCLI's words for the option of :func:`add_mirror`."""
    return [f"--model.mirror={options.mirror}"] if options.mirror else []


def _axes(word: str) -> list[int]:
    parts = word.split(",")
    if not all(part in ("0", "1", "2") for part in parts):
        raise argparse.ArgumentTypeError(f"must be axes such as 0 or 0,1,2, got {word}")
    return [int(part) for part in parts]


def run_words(folder: Path, which: str) -> list[str]:
    """Return LightningCLI's words for a checkpoint of a run folder.

    Raises:
        RunFolderError: The folder is not one of a run.
        CheckpointError: There is no such checkpoint.
    """
    config = folder / "config.yaml"
    if not config.is_file():
        raise RunFolderError(
            f"{folder} is not a run folder: it has no config.yaml. "
            "A run folder is runs/<dataset>/<network>-<loss>/seed<k>."
        )
    from mbls.callbacks import find_checkpoint

    checkpoint = find_checkpoint(folder, which)
    return ["--config", str(config), "--ckpt_path", str(checkpoint), "--run.folder", str(folder)]
