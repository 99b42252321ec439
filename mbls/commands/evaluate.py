"""``mbls evaluate RUN``: test a run's checkpoint again, from the run folder alone."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mbls.config.choices import below, read_yaml
from mbls.config.options import options_of
from mbls.config.wrong_words import refuse_unknown
from mbls.runtime.errors import CheckpointError, RunFolderError

__all__ = ["add_mirror", "main", "mirror_words", "run_words", "tag_of"]

TAGGED = (
    ("model.window", "{}", None),
    ("model.n_bins", "{}bins", 15),
    ("trainer.precision", "{}", "32-true"),
)
"""Settings that name a test, how, and their value where the run's configuration has none."""


def main(args: list[str]) -> int:
    """Test one checkpoint of a run and write ``test/<tag>/``."""
    p = argparse.ArgumentParser(prog="mbls evaluate", allow_abbrev=False, description=__doc__)
    p.add_argument("run", type=Path, help="run folder")
    p.add_argument("--ckpt", default="best", help="best, last, or a file (default: best)")
    p.add_argument("--tag", help="folder below test/ (default: the checkpoint's name and what is "
                   "not as in the run, best-native-mirrored-01)")  # fmt: skip
    p.add_argument("--split", type=Path, metavar="FILE",
                   help="the patients of each part, as JSON, in place of the run's")  # fmt: skip
    p.add_argument("--fold", type=int, metavar="K", help="which of the file's folds")
    p.add_argument("--grid", choices=("preprocessed", "native"), default="preprocessed",
                   help="where to score: on the cache's grid, or on that of the files")  # fmt: skip
    p.add_argument("--verbose", action="store_true", help="print all numbers of the test")
    add_mirror(p)
    options, rest = p.parse_known_args(args)
    refuse_unknown(rest, p)
    if options.ckpt.endswith(".ckpt") and options.tag is None:
        path = Path(options.ckpt)
        if path.is_file() and path.resolve().parent != (options.run / "checkpoints").resolve():
            raise CheckpointError(
                f"{path} is not one of {options.run}/checkpoints: its results need a name of their "
                "own, --tag NAME (make: TAG=NAME)."
            )
    words = run_words(options.run, options.ckpt)
    tag = options.tag or tag_of(options, rest, read_yaml(options.run / "config.yaml"))
    words += ["--run.tag", tag, "--verbose", "false"]
    data = {"split": options.split, "fold": options.fold}
    words += [f"--data.init_args.{key}={v}" for key, v in data.items() if v is not None]
    words += [f"--results.verbose={options.verbose}"]
    words += [f"--model.grid={options.grid}", *mirror_words(options)]

    from mbls.config.cli import command_line

    command_line(["test", *words, *rest])
    return 0


def tag_of(options: argparse.Namespace, rest: Sequence[str], stated: Mapping[str, Any]) -> str:
    """Return the name of a test's results: its checkpoint's, and what is not as in the run.

    Args:
        options: What ``mbls evaluate`` was asked for.
        rest: The other words, those of LightningCLI.
        stated: The run's configuration.

    Example:
        >>> options = argparse.Namespace(ckpt="best", split=Path("ours.json"), fold=None,
        ...                              grid="native", mirror=[0, 1])
        >>> tag_of(options, ["--model.window=whole", "--trainer.precision=bf16-mixed"], {})
        'best-ours-native-mirrored-01-whole-bf16-mixed'
    """
    data = below(stated, "data", "init_args") or {}
    parts = [Path(options.ckpt).stem]
    if options.split is not None and str(options.split) != str(data.get("split")):
        parts.append(options.split.stem)
    if options.fold is not None and options.fold != data.get("fold"):
        parts.append(f"fold{options.fold}")
    if options.grid == "native":
        parts.append("native")
    if options.mirror:
        parts.append("mirrored-" + "".join(map(str, options.mirror)))
    asked = dict(options_of(rest))
    for name, words, usual in TAGGED:
        value, own = asked.get(name), below(stated, *name.split("."))
        if value is not None and value != str(usual if own is None else own):
            parts.append(words.format(value))
    return "-".join(parts)


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
    return sorted({int(part) for part in parts})


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
