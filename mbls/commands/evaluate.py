"""``mbls evaluate RUN``: test a run's checkpoint again, from the run folder alone."""

import argparse
from pathlib import Path

from mbls.errors import CheckpointError, RunFolderError

__all__ = ["main", "run_words"]


def main(args: list[str]) -> int:
    """Test one checkpoint of a run and write ``test/<tag>/``."""
    p = argparse.ArgumentParser(prog="mbls evaluate", allow_abbrev=False, description=__doc__)
    p.add_argument("run", type=Path, help="run folder")
    p.add_argument("--ckpt", default="best", help="best, last, or a file (default: best)")
    p.add_argument("--tag", help="folder below test/ (default: the checkpoint's name)")
    options, rest = p.parse_known_args(args)
    if options.ckpt.endswith(".ckpt") and options.tag is None:
        path = Path(options.ckpt)
        if path.is_file() and path.resolve().parent != (options.run / "checkpoints").resolve():
            raise CheckpointError(
                f"{path} is not one of {options.run}/checkpoints: its results need a name of their "
                'own, --tag NAME (make: ARGS="--tag NAME").'
            )
    words = run_words(options.run, options.ckpt)
    words += ["--run.tag", options.tag or Path(options.ckpt).stem, "--verbose", "false"]

    from mbls.commands.lightning import command_line

    command_line(["test", *words, *rest])
    return 0


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
