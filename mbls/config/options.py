"""The options of ``mbls train``, and what LightningCLI is told for them.

Imports nothing heavy, so that a wrong name is answered at once.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from mbls.config.choices import below, choices, choose, compose, read_yaml, stated_dims
from mbls.config.specs import LossSpec, parse_loss
from mbls.loggers.selection import RULES
from mbls.runtime.errors import ChoiceError, RunFolderError
from mbls.runtime.jobs import has_begun
from mbls.runtime.ranks import say

__all__ = [
    "chosen_loss",
    "chosen_names",
    "chosen_words",
    "config_of",
    "data_words",
    "dim_words",
    "fresh_words",
    "option_words",
    "options_of",
    "parser",
    "requeued",
    "require",
    "resume_words",
]


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``mbls train``."""
    p = argparse.ArgumentParser(
        prog="mbls train",
        usage="%(prog)s [options]",
        allow_abbrev=False,
        description="Train a network on a dataset with a loss, and test its best checkpoint. "
        "Further options go to LightningCLI as they are, e.g. --trainer.gradient_clip_val 1.",
    )
    p.add_argument("--dataset", metavar="NAME", help=", ".join(choices("data")))
    p.add_argument("--loss", metavar="NAME", help=", ".join(choices("loss"))
                   + "; with settings of its own as mbls:margin=8,alpha=0.3")  # fmt: skip
    p.add_argument("--network", metavar="NAME", help=", ".join(choices("network"))
                   + "; default: unet, in 3D unet3d, with --preset paper unet_paper")  # fmt: skip
    p.add_argument("--dim", type=int, choices=(2, 3),
                   help="slices or volumes; default: what the network's file asks for")  # fmt: skip
    p.add_argument("--data-root", type=Path, metavar="FOLDER",
                   help="the dataset's folder; without it a phantom is written")  # fmt: skip
    p.add_argument("--preset", metavar="NAME", help=", ".join(choices("trainer"))
                   + "; default: quick on a phantom, paper with --data-root")  # fmt: skip
    p.add_argument("--logger", metavar="NAME", help="a tracker beside metrics.csv, or several with "
                   f"commas: {', '.join(choices('logger'))}")  # fmt: skip
    p.add_argument("--seed", type=int, default=None)
    p.add_argument("--fold", type=int, metavar="K", help="validate on fold K of the patients")
    p.add_argument("--split", type=Path, metavar="FILE", help="the patients of each part, as JSON")
    p.add_argument("--adapt", choices=("val", "holdout"), help="what a loss that adapts observes: "
                   "the validation split, or training patients held out for it")  # fmt: skip
    p.add_argument("--epochs", type=_at_least_one)
    p.add_argument("--batch-size", type=int, help="samples a step over all ranks")
    p.add_argument("--devices", help="processes a node, or 'auto'")
    p.add_argument("--nodes", type=int)
    p.add_argument("--accelerator", help="cpu, gpu, auto")
    p.add_argument("--precision", help="32-true, bf16-mixed, 16-mixed")
    p.add_argument("--select", choices=RULES,
                   help="which epoch is best (default: dice; see docs/statistics.md)")  # fmt: skip
    p.add_argument("--run", type=Path, metavar="FOLDER", help="run folder of your own naming")
    p.add_argument("--resume", action="store_true", help="go on in the folder given by --run")
    p.add_argument("--job", metavar="ID",
                   help="batch job of this run; queued again, it goes on in its --run")  # fmt: skip
    p.add_argument("--prepare", action="store_true",
                   help="prepare the data of this run, phantom and cache, and stop")  # fmt: skip
    p.add_argument("--verbose", action="store_true", help="print all numbers of the test")
    p.add_argument("--dry-run", action="store_true", help="print the mbls fit command and stop")
    return p


def _at_least_one(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {word}")
    return int(word)


def requeued(options: argparse.Namespace, rest: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the words as they are; of a batch job that has begun before, those that go on.

    The run's own configuration has all that it was started with.

    Raises:
        RunFolderError: There is a job and no folder.
    """
    if options.job is None:
        return options, rest
    if options.run is None:
        raise RunFolderError("--job needs the run folder that the job is to make: --run FOLDER.")
    if not has_begun(options.run, options.job):
        return options, rest
    words = ["--run", str(options.run), "--job", options.job, "--resume"]
    return parser().parse_args(words + ["--prepare"] * options.prepare), []


def fresh_words(options: argparse.Namespace, rest: Sequence[str] = ()) -> list[str]:
    """Return the ``--config`` words of a new run, and say what was chosen."""
    require(options, "dataset", "loss")
    words = chosen_words(options)
    names = chosen_names(options)
    epochs = stated_epochs([*words, *option_words(options), *rest])
    say(
        f"dataset {names['dataset']} · loss {chosen_loss(options).label} · network "
        f"{names['network']} · preset {names['preset']} · epochs {epochs} · seed "
        f"{options.seed or 0}"
    )
    return words


def stated_epochs(words: Sequence[str]) -> object:
    """Return the number of epochs that LightningCLI's words and their files state last."""
    stated: object = None
    for key, value in options_of(words):
        if key == "trainer.max_epochs":
            stated = value
        elif key == "config":
            stated = below(read_yaml(Path(value)), "trainer", "max_epochs") or stated
    return stated


def chosen_words(options: argparse.Namespace) -> list[str]:
    """Return LightningCLI's words for the choices of a new run."""
    names = chosen_names(options)
    loggers = options.logger.split(",") if options.logger else ()
    files = compose(**names, dims=options.dim, loggers=loggers)
    words = [word for file in files for word in ("--config", str(file))]
    loss = chosen_loss(options)
    words += [f"--run.{k}={Path(names[k]).stem}" for k in ("dataset", "network")]
    words += [f"--run.loss={loss.label}", *loss.setting_words()]
    return [*words, *dim_words(options, names["network"]), "--card.preset", names["preset"]]


def chosen_loss(options: argparse.Namespace) -> LossSpec:
    """Return the loss of a run with the settings of its own, as one of a grid is written.

    Raises:
        ChoiceError: A loss or a setting that does not exist.
    """
    return parse_loss(options.loss)


def chosen_names(options: argparse.Namespace) -> dict[str, str]:
    """Return the dataset, loss, network and preset of a run, defaults filled in."""
    preset = options.preset or ("quick" if options.data_root is None else "paper")
    network = options.network or default_network(options, preset)
    return {
        "dataset": options.dataset,
        "loss": options.loss and chosen_loss(options).name,
        "network": network,
        "preset": preset,
    }


def default_network(options: argparse.Namespace, preset: str) -> str:
    """Return the network of a run that names none."""
    if (options.dim or stated_dims(choose("data", options.dataset))) == 3:
        return "unet3d"
    return "unet_paper" if preset == "paper" else "unet"


def dim_words(options: argparse.Namespace, network: str) -> list[str]:
    """Return the words for slices or volumes where the network's file asks for the other."""
    asked = stated_dims(choose("network", network))
    if options.dim is None or asked in (None, options.dim):
        return []
    return [f"--data.init_args.spatial_dims={options.dim}"]


def require(options: argparse.Namespace, *names: str) -> None:
    """Refuse options without one of these, and list what it can be."""
    for name in names:
        if getattr(options, name) is None:
            kind = {"dataset": "data"}.get(name, name)
            raise ChoiceError(f"--{name} is needed: one of {', '.join(choices(kind))}.")


def resume_words(options: argparse.Namespace, rest: Sequence[str] = ()) -> list[str]:
    """Return the words that go on in a run folder with its own configuration."""
    if any(word.split("=")[0] == "--ckpt_path" for word in rest):
        raise ChoiceError(
            "--resume goes on from the run's last checkpoint, so that its values are those of one "
            "run: leave out --ckpt_path, or start a new run from it without --resume."
        )
    for choice in ("dataset", "loss", "network", "preset", "dim", "adapt", "logger", "select"):
        if getattr(options, choice) is not None:
            raise ChoiceError(
                f"--resume goes on with what {options.run} was started with: leave out --{choice}, "
                "or start a new run."
            )
    if options.run is None:
        raise RunFolderError("--resume needs the run folder to go on in: --run FOLDER.")
    return ["--config", str(config_of(options.run)), "--run.resume", "true"]


def config_of(run: Path) -> Path:
    """Return the configuration that a run folder was started with.

    Raises:
        RunFolderError: There is none.
    """
    if not (run / "config.yaml").is_file():
        raise RunFolderError(
            f"--resume goes on in a run folder: {run} has no config.yaml. "
            "Give --run runs/<dataset>/<network>-<loss>/seed<k>. What is left of a run that ended "
            "before it wrote the file may be removed, and the run started anew."
        )
    return run / "config.yaml"


def option_words(options: argparse.Namespace) -> list[str]:
    """Return LightningCLI's words for the options that were given."""
    targets = {
        "seed_everything": options.seed,
        "data.init_args.root": options.data_root,
        "data.init_args.fold": options.fold,
        "data.init_args.split": options.split,
        "data.init_args.adapt": options.adapt,
        "data.init_args.batch_size": options.batch_size,
        "trainer.max_epochs": options.epochs,
        "trainer.devices": options.devices,
        "trainer.num_nodes": options.nodes,
        "trainer.accelerator": options.accelerator,
        "trainer.precision": options.precision,
        "checkpoint.select": options.select,
        "run.folder": options.run,
        "run.job": options.job,
        "results.verbose": options.verbose or None,
    }
    given: Sequence[tuple[str, object]] = [(k, v) for k, v in targets.items() if v is not None]
    return [word for key, value in given for word in (f"--{key}", str(value))]


def options_of(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield ``(key, value)`` of ``--key=value`` and ``--key value``."""
    for word, after in itertools.zip_longest(words, words[1:]):
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            yield key, value if equals else (after or "")


def data_words(words: Sequence[str]) -> list[str]:
    """Return those of LightningCLI's words that set the data."""
    found: list[str] = []
    ours = False
    for word in words:
        ours = word.startswith("--data.") if word.startswith("--") else ours
        found += [word] * ours
    return found
