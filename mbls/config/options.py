"""Table of options: the source of the parsers, make's variables and docs/commands.md.

``--data-root`` of a command is ``DATA_ROOT=`` of the make target with the same name; ``make
readme`` writes the table to the Makefile and docs/commands.md. Other options are passed to
LightningCLI. Imports nothing heavy: a typo is reported at once.
"""

import argparse
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbls.config.choices import choices, did_you_mean
from mbls.loggers.selection import RULES
from mbls.runtime.errors import UsageError

__all__ = [
    "OPTIONS",
    "Option",
    "Settings",
    "given",
    "overrides",
    "parse",
    "parser",
    "to_argv",
    "with_nulls",
]

_FIELD = re.compile(r"--([\w.]+\.init_args\.\w+)\.(\w+)(=null)?")
Settings = list[tuple[str, str | None]]
"""Options of LightningCLI in order: ``("config", "base.yaml"), ("trainer.max_epochs", "3")``."""

# LightningCLI's options without a dot, which it checks itself
PLAIN = ("config", "seed_everything", "ckpt_path", "weights_only", "verbose", "model", "data",
         "trainer", "optimizer", "lr_scheduler", "print_config", "return_predictions",
         "datamodule", "dataloaders")  # fmt: skip


def at_least_one(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return int(text)


def share(text: str) -> float:
    """Parse a number above 0 and below 1."""
    value = float(text) if re.fullmatch(r"\d*\.?\d+", text) else -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be a number above 0 and below 1, got {text}")
    return value


def numbers(text: str) -> list[int]:
    """Parse ``"0 1 2"`` or ``"0,1,2"``."""
    parts = text.replace(",", " ").split()
    if not parts or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f'must be whole numbers, "0 1 2", got {text!r}')
    if len(set(parts)) < len(parts):
        raise argparse.ArgumentTypeError(f"must differ, got {text!r}")
    return [int(part) for part in parts]


def axes(text: str) -> list[int]:
    """Parse axes of an image, ``"0,1"``."""
    parts = text.split(",")
    if not all(part in ("0", "1", "2") for part in parts):
        raise argparse.ArgumentTypeError(f"must be axes such as 0 or 0,1,2, got {text}")
    return sorted({int(part) for part in parts})


def folders(text: str) -> list[Path]:
    """Parse folders that are separated by spaces."""
    parts = shlex.split(text)
    if len(parts) < 2:
        raise argparse.ArgumentTypeError(f'must be two or more folders, "A B", got {text!r}')
    return [Path(part) for part in parts]


def names(text: str) -> list[str]:
    """Parse names separated by commas, ``"background,liver"``."""
    found = [part.strip() for part in text.split(",")]
    if not all(found) or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f'must be names that differ, "a,b,c", got {text!r}')
    return found


@dataclass(frozen=True)
class Option:
    """An option of one or more commands.

    Attributes:
        name: ``data_root`` is ``--data-root``, and ``DATA_ROOT=`` with make.
        commands: The commands that have it, separated by spaces.
        help: Help text.
        target: The setting of LightningCLI that it sets, if any.
        type: Function that parses the value; ``bool`` makes it a flag.
        kind: The folder of YAML files whose names are its values.
        choices: The allowed values.
        metavar: Placeholder for the value in ``--help``.
        alias: A second name.
        resume: If True, it is allowed when a run is resumed.
        make: If True, it is also a variable of make.
        positional: Empty for an option; "1" for one positional argument, "?" for one or
            none, "+" for several.
    """

    name: str
    commands: str
    help: str = ""
    target: str | None = None
    type: Callable[[str], Any] = str
    kind: str | None = None
    choices: Sequence[Any] | None = None
    metavar: str | None = None
    alias: str | None = None
    resume: bool = True
    make: bool = True
    positional: str = ""

    @property
    def flag(self) -> str:
        """The option on the command line."""
        return "--" + self.name.replace("_", "-")

    def of(self, command: str) -> bool:
        """Return True if a command has this option."""
        return command in self.commands.split()

    def add_to(self, p: argparse.ArgumentParser) -> None:
        """Add this option to a parser."""
        if self.positional:
            nargs = None if self.positional == "1" else self.positional
            p.add_argument(self.name, type=self.type, nargs=nargs, help=self.help)
            return
        flags = [self.flag, *([self.alias] if self.alias else [])]
        if self.type is bool:
            p.add_argument(*flags, dest=self.name, action="store_true", help=self.help)
            return
        names = f"{', '.join(choices(self.kind))}; " if self.kind else ""
        metavar = self.metavar or (None if self.choices else "NAME" if self.kind else "VALUE")
        p.add_argument(*flags, dest=self.name, type=self.type, choices=self.choices,
                       metavar=metavar, help=(names + self.help).removesuffix("; "))  # fmt: skip


TRAIN = "train benchmark slurm"
DATA = "data check-data splits"
AGAIN = "evaluate predict"
DECIDE = "thresholds volumes guarantee"
SCORED = f"evaluate predict calibrate {DECIDE} refer regret shift"
AUDIT = "audit calibrate"
FOREIGN = "audit calibrate apply decide ensemble"

OPTIONS = (
    Option("dataset", f"{TRAIN} {DATA}", kind="data", resume=False),
    Option("loss", "train slurm", "with settings of its own as mbls:margin=8,alpha=0.3",
           kind="loss", resume=False),
    Option("network", TRAIN, "default: unet, in 3D unet3d, with --preset paper unet_paper",
           kind="network", resume=False),
    Option("preset", f"{TRAIN} {DATA}", "default: quick on a phantom, paper with --data-root",
           kind="trainer", resume=False),
    Option("logger", TRAIN, "trackers next to metrics.csv, several with commas",
           kind="logger", resume=False),
    Option("dim", f"{TRAIN} {DATA}", "slices or volumes; default: what the network needs",
           type=int, choices=(2, 3), resume=False),
    Option("data_root", f"{TRAIN} {DATA} {SCORED}",
           "the dataset's folder; without it a phantom is written to data/",
           "data.init_args.root", Path, metavar="FOLDER"),
    Option("cache", f"{TRAIN} {DATA} {SCORED} cache-info cache-clean",
           "folder of the preprocessed data (default: cache)",
           "data.init_args.cache_dir", Path, metavar="FOLDER"),
    Option("split", f"{TRAIN} {DATA} evaluate", "JSON file: the patients of each part, or folds",
           "data.init_args.division.split", Path, metavar="FILE"),
    Option("seed", "train slurm", "default: 0", "seed_everything", int, metavar="N"),
    Option("patient", f"{TRAIN} {DATA} evaluate", "regular expression that finds the patient in a "
           "case's name, for data in a known format", "data.init_args.patient", metavar="REGEX"),
    Option("fold", "train slurm evaluate", "validate on fold K of the patients",
           "data.init_args.division.fold", int, metavar="K"),
    Option("train_patients", TRAIN, "use N of the training patients, for learning curves",
           "data.init_args.division.train_patients", at_least_one, metavar="N", resume=False),
    Option("raters", TRAIN, "label of training samples with several readers (docs/own-data.md)",
           "data.init_args.sampling.raters", choices=("majority", "sample", "first", "mean"),
           resume=False),
    Option("adapt", TRAIN, "what an adaptive loss observes: the validation split, or training "
           "patients held out for it", "data.init_args.division.adapt",
           choices=("val", "holdout"), resume=False),
    Option("epochs", TRAIN, "how many to train; with RESUME=1 the new total",
           "trainer.max_epochs", at_least_one, metavar="N"),
    Option("batch_size", TRAIN, "samples a step, over all ranks", "data.init_args.batch_size", int,
           metavar="N"),
    Option("select", TRAIN, "which epoch is best (default: dice; docs/statistics.md)",
           "checkpoint.select", choices=RULES, resume=False),
    Option("window", f"{TRAIN} {SCORED}", "evaluate on windows of the training size, or whole "
           "slices", "model.window", choices=("patch", "padded", "whole")),
    Option("devices", f"train benchmark {AGAIN}", "processes a node, or auto", "trainer.devices",
           metavar="N"),
    Option("devices", "slurm", "processes a node (default: 1)", "trainer.devices", at_least_one,
           metavar="N"),
    Option("nodes", f"{TRAIN} {AGAIN}", "machines", "trainer.num_nodes", at_least_one, metavar="N"),
    Option("accelerator", f"{TRAIN} {SCORED}", "cpu, gpu, auto", "trainer.accelerator"),
    Option("precision", f"{TRAIN} {SCORED}", "32-true, bf16-mixed, 16-mixed",
           "trainer.precision"),
    Option("sync_batchnorm", TRAIN, "batch norm over all GPUs", "trainer.sync_batchnorm", bool),
    Option("verbose", f"{TRAIN} evaluate", "print all numbers of the test", "results.verbose",
           bool),
    Option("verbose", "audit", "print all numbers", type=bool),
    Option("margins", "audit", "count voxels within margins in mm, for make guarantee", type=bool),
    Option("run", "train predict", "run folder: to write (train), or to read", "run.folder", Path,
           metavar="FOLDER"),
    Option("run", "evaluate", "run folder", "run.folder", Path, positional="?"),
    Option("runs", AGAIN, "run folders, or checkpoints, whose networks form an ensemble",
           type=folders, metavar="FOLDERS"),
    Option("calibrator", AGAIN, "JSON file of a calibrator (make calibrate)",
           "post_hoc.calibrator", Path, metavar="FILE"),
    Option("corrupt", "evaluate", "corruption and level of the images, noise:3 (docs/decisions.md)",
           "corrupt.image", metavar="NAME:LEVEL"),
    Option("decide", AGAIN, "how voxels get their classes: argmax (default), dice for the masks of "
           "the highest expected Dice, threshold for RUN's decisions/dice.json (make thresholds), "
           "or a file like it", "post_hoc.decide", metavar="HOW"),
    Option("guarantee", "predict", "JSON file of a guarantee, whose outer and inner masks are "
           "written (make guarantee)", "post_hoc.guarantee", Path, metavar="FILE"),
    Option("run", "calibrate", "run folder: fit on validation patients, report on test patients",
           type=Path, metavar="FOLDER"),
    Option("predictions", "calibrate", "or a folder of predictions, which are cross-fitted",
           type=Path, positional="?"),
    Option("groups", "calibrate", "groups of patients of a cross-fit (default: the folds of "
           "nnU-Net's validation, else 5)", type=at_least_one, metavar="K"),
    Option("method", "calibrate", "temperature (default), vector, isotonic, ..., or several with "
           "commas (docs/calibration.md)"),
    Option("run", "thresholds", "run folder: choose on validation patients, report on test "
           "patients; an audit's folder is cross-fitted", type=Path, positional="?"),
    Option("runs", "thresholds", "run folders that are drawn side by side", type=folders,
           metavar="FOLDERS"),
    Option("target", "thresholds", "dice (default), recall:0.95 or precision:0.9: what a "
           "threshold is chosen for", metavar="TARGET"),
    Option("run", "volumes guarantee", "run folder: calibrate on validation patients, report on "
           "test patients; an audit's folder is cross-fitted", type=Path, positional="?"),
    Option("alpha", "volumes", "share of patients whose interval may miss (default: 0.1)",
           type=share, metavar="SHARE"),
    Option("fnr", "guarantee", "share of a structure that may be missed (default: 0.1)",
           type=share, metavar="SHARE"),
    Option("alpha", "guarantee", "share of patients for whom it may be more; without it FNR bounds "
           "the mean", type=share, metavar="SHARE"),
    Option("calibrator", DECIDE, "JSON file of a calibrator (make calibrate)",
           "post_hoc.calibrator", Path, metavar="FILE"),
    Option("groups", DECIDE, "groups of patients of a cross-fit (default: 5)",
           type=at_least_one, metavar="K"),
    Option("output", "thresholds", "of several RUNS: where the figure is written (default: "
           "thresholds/ above them)", type=Path, metavar="FOLDER"),
    Option("run", "refer", "run folder, or that of an audit", type=Path, positional="?"),
    Option("confidence", "refer", "what orders the cases (default: soft_dice; docs/decisions.md)",
           choices=("soft_dice", "expected_dice", "entropy_near", "entropy_all", "agreement")),
    Option("share", "refer", "share of other patients' cases below the level (default: 0.1)",
           type=share, metavar="SHARE"),
    Option("calibrator", "refer", "JSON file of a calibrator (make calibrate)",
           "post_hoc.calibrator", Path, metavar="FILE"),
    Option("groups", "refer", "groups of patients of an audit's cross-fit (default: 5)",
           type=at_least_one, metavar="K"),
    Option("run", "shift", "run folder", type=Path, positional="?"),
    Option("runs", "shift", "run folders that are compared", type=folders, metavar="FOLDERS"),
    Option("corruptions", "shift", 'such as "noise blur" (default: all; docs/decisions.md)',
           metavar="LIST"),
    Option("calibrator", "shift", "also with this calibrator: a file, or the method of each run's "
           "own, temperature", metavar="NAME"),
    Option("target", "shift", "also Dice, recall or precision at thresholds for dice, recall:0.95 "
           "or precision:0.9", metavar="TARGET"),
    Option("alpha", "shift", "also how many volumes are in intervals that may miss this share of "
           "the patients, 0.1", type=share, metavar="SHARE"),
    Option("output", "shift", "of several RUNS: where to write (default: shift/ above them)",
           type=Path, metavar="FOLDER"),
    Option("run", "regret", "run folder of a phantom", type=Path, positional="?"),
    Option("runs", "regret", "run folders that are drawn side by side", type=folders,
           metavar="FOLDERS"),
    Option("draws", "regret", "labels drawn of each test case (default: 100)", type=at_least_one,
           metavar="N"),
    Option("output", "regret", "of several RUNS: where table and figure are written (default: "
           "regret/ above them)", type=Path, metavar="FOLDER"),
    Option("resume", "train", "continue the run in RUN from its last checkpoint", "run.resume",
           bool),
    Option("job", "train", "batch job of this run; queued again, it resumes in its --run",
           "run.job", metavar="ID", make=False),
    Option("prepare", "train", "prepare the data of this run, phantom and cache, and stop",
           type=bool, make=False),
    Option("losses", "benchmark slurm", 'such as "ce mbls:margin=3 mbls:margin=10,alpha=0.3"',
           metavar="LIST"),
    Option("seeds", "benchmark slurm", 'such as "0 1 2"', type=numbers, metavar="NUMBERS"),
    Option("folds", "benchmark slurm", 'such as "0 1 2 3 4"', type=numbers, metavar="NUMBERS"),
    Option("folds", "splits", "how many folds (default: 5)", type=int, metavar="N"),
    Option("root", "benchmark slurm", "where runs are kept (default: runs; a benchmark without "
           "--losses runs/benchmark)", type=Path, metavar="FOLDER"),
    Option("jobs", "benchmark", "runs at a time; cores are divided among them (default: 1; "
           "without --losses one a core)", type=at_least_one, metavar="N"),
    Option("list", "benchmark", "print each run's state and command, stop", type=bool, make=False),
    Option("no_report", "benchmark", "stop before the report", type=bool, make=False),
    Option("time", "slurm", "limit: HH:MM:SS, D-HH, minutes (default: 24:00:00)"),
    Option("site", "slurm", "YAML file with your own changes to site.yaml", type=Path,
           metavar="FILE"),
    Option("dry", "train slurm", "print the command, or the batch script, and stop", type=bool,
           alias="--dry-run"),
    Option("ckpt", AGAIN, "best, last, or a file (default: best)"),
    Option("tag", "evaluate", "folder below test/ (default: the checkpoint's name and what differs "
           "from the run, best-native-mirrored-01)", "run.tag"),
    Option("tag", "report", "which test of each run (default: best)", make=False),
    Option("grid", "guarantee", "where voxels are counted (default: native, on the grid of the "
           "files)", "model.grid", choices=("preprocessed", "native")),
    Option("grid", "evaluate calibrate thresholds volumes refer shift", "where to score: on the "
           "cache's grid, or on that of the files", "model.grid",
           choices=("preprocessed", "native")),
    Option("mirror", SCORED, "average logits over mirrorings along these axes, e.g. 0,1",
           "model.mirror", axes, metavar="AXES"),
    Option("input", "predict", "a NIfTI file, or a folder of them", "data.init_args.predict_input",
           Path, metavar="PATH"),
    Option("output", "predict", "folder for the label maps", "predictions.output", Path,
           metavar="FOLDER"),
    Option("probabilities", "predict", "write class probabilities too", "predictions.probabilities",
           bool),
    Option("uncertainty", "predict", "write maps of the uncertainty, and its numbers for each case",
           "predictions.uncertainty", bool),
    Option("overwrite", "predict", "replace files in OUTPUT that are no predictions of mbls",
           "predictions.overwrite", bool),
    Option("output", "report", "where to write (default: report/ in RUNS, or above several)",
           type=Path, metavar="FOLDER"),
    Option("output", "splits", "default: splits/<dataset>-<folds>.json", type=Path, metavar="FILE"),
    Option("runs", "report", "run folders, or folders above them (make: default runs)", type=Path,
           positional="+"),
    Option("reference", "report", "loss that the others are compared with", metavar="LOSS"),
    Option("no_captions", "report", "figures without the lines above them, for a paper", type=bool),
    Option("no_pictures", "report", "no slices of patients: without the worst cases", type=bool),
    Option("predictions", "audit", "probability maps: a results folder of nnU-Net v2, or a folder "
           "of .npz or NIfTI files", type=Path, positional="1"),
    Option("decide", "audit", "score the masks of dice or of a file of thresholds, in place of the "
           "likeliest classes, as a test of its own", metavar="HOW"),
    Option("labels", FOREIGN, "folder of the label files (default: those of nnU-Net's results, if "
           "they are found); of apply, decide and ensemble, files on the grid of each case",
           type=Path, metavar="FOLDER"),
    Option("name", f"{AUDIT} ensemble", "what tables call the predictions (default: the folder's "
           "name)"),
    Option("dataset", AUDIT, "the dataset's name in tables (default: its folder's name)"),
    Option("seed", AUDIT, "number of the training, if several have one NAME (default: 0)",
           type=int),
    Option("output", AUDIT, "run folder to write (default: runs/audit/NAME)", type=Path,
           metavar="FOLDER"),
    Option("patient", AUDIT, "regular expression that finds the patient in a case's name "
           "(default: each case is a patient)", metavar="REGEX"),
    Option("format", FOREIGN, "what the files are, if not found by itself",
           choices=("nnunet", "npz", "nifti", "nifti-per-class")),
    Option("axes", FOREIGN, "order of an array's axes, c for the classes, if their shapes leave it "
           "open", choices=("cxyz", "czyx", "xyzc", "zyxc")),
    Option("class_names", FOREIGN, "names of the classes, background first (default: those of a "
           "dataset.json)", type=names, metavar="A,B,C"),
    Option("label_values", FOREIGN, "value of each class in the label files, such as 0,1,2,4 "
           "(default: those of a dataset.json, or 0, 1, ...)", type=numbers, metavar="NUMBERS"),
    Option("regions", FOREIGN, 'overlapping regions in place of classes, "WT=1,2,3 TC=1,3 ET=3": '
           "name and label values of each channel", metavar="LIST"),
    Option("calibrator", "apply", "JSON file of a calibrator (make calibrate)", type=Path,
           positional="1"),
    Option("predictions", "apply", "probability maps, as of audit", type=Path, positional="1"),
    Option("output", "apply", "folder to write, in the format of PREDICTIONS", type=Path,
           positional="1"),
    Option("decide", "decide", "dice for the masks of the highest expected Dice, argmax, or a JSON "
           "file of thresholds (make thresholds) or a guarantee (make guarantee)", positional="1"),
    Option("predictions", "decide", "probability maps, as of audit", type=Path, positional="1"),
    Option("output", "decide", "folder to write label maps or masks to", type=Path, positional="1"),
    Option("predictions", "ensemble", "folders of probability maps, as of audit", type=Path,
           positional="+"),
    Option("output", "ensemble", "folder to write, in the format of the first", type=Path,
           metavar="FOLDER"),
    Option("sheet", "check-data", "contact sheet (default: data/<dataset>-sheet.png)", type=Path,
           metavar="FILE", make=False),
    Option("pictures", "check-data", "cases on the contact sheet; 0 for no sheet (default: 24)",
           type=int, metavar="N", make=False),
    Option("every", "check-data", "a row for every problem, not one for those alike; every note",
           type=bool, make=False),
    Option("yes", "cache-clean", "do not ask", type=bool),
    Option("all", "cache-clean", "remove every cache", type=bool),
    Option("days", "cache-clean", "also remove caches last written to N days ago", type=float,
           metavar="N"),
)  # fmt: skip


def parser(command: str, about: str | None, *, prog: str | None = None) -> argparse.ArgumentParser:
    """Return the argparse parser of a command.

    Args:
        command: The command.
        about: What it does.
        prog: How it is called, if not ``mbls <command>``.
    """
    options = [option for option in OPTIONS if option.of(command)]
    forms = {"1": "{} ", "?": "[{}] ", "+": "{} ... "}
    places = "".join(forms[o.positional].format(o.name.upper()) for o in options if o.positional)
    p = argparse.ArgumentParser(prog=prog or f"mbls {command}", usage=f"%(prog)s {places}[options]",
                                allow_abbrev=False, description=about)  # fmt: skip
    p.set_defaults(command=command)
    for option in options:
        option.add_to(p)
    return p


def parse(p: argparse.ArgumentParser, args: Sequence[str]) -> tuple[argparse.Namespace, Settings]:
    """Return the options of a command, and the remaining settings for LightningCLI.

    Raises:
        UsageError: An option without a dot is unknown to both; the message has the nearest name.
    """
    options, rest = p.parse_known_args(_joined(args))
    settings = list(_pairs(rest))
    own = [flag for flag in p._option_string_actions if flag.startswith("--")]
    for name, _ in settings:
        if name.startswith("loss."):
            raise UsageError(
                f"Unknown option --{name}. Write settings of a loss as LOSS=mbls:margin=8 "
                "(--loss mbls:margin=8)."
            )
        if "." not in name and name.rstrip("+") not in PLAIN:
            hint = did_you_mean(f"--{name}", [*own, *(f"--{plain}" for plain in PLAIN)])
            hint = hint.replace("'", "")
            raise UsageError(f"Unknown option --{name}.{hint} See {p.prog} --help.")
    return options, settings


def _joined(args: Sequence[str]) -> list[str]:
    """Return arguments with ``--a.b value`` as ``--a.b=value``.

    Argparse would take the value of an option that it does not know for a positional argument.
    """
    found: list[str] = []
    for before, arg in zip(["", *args], args, strict=False):
        setting = before.startswith("--") and "." in before and "=" not in before
        if setting and not arg.startswith("--"):
            found[-1] += f"={arg}"
        else:
            found.append(arg)
    return found


def _pairs(args: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield name and value of ``--name=value``, ``--name value`` and ``--name``."""
    for before, arg, after in zip(["", *args], args, [*args[1:], "--"], strict=False):
        if not arg.startswith("--"):
            if not before.startswith("--") or "=" in before:
                raise UsageError(f"Cannot read {arg!r}: options are given as --name value.")
            continue
        name, equals, value = arg[2:].partition("=")
        yield name, value if equals else None if after.startswith("--") else after


def to_argv(settings: Settings) -> list[str]:
    """Return settings as arguments of LightningCLI.

    Example:
        >>> to_argv([("config", "base.yaml"), ("trainer.max_epochs", "3")])
        ['--config=base.yaml', '--trainer.max_epochs=3']
    """
    return [f"--{name}" if value is None else f"--{name}={value}" for name, value in settings]


def with_nulls(args: Sequence[str]) -> list[str]:
    """Return arguments with a null in a field of a dataclass as a mapping.

    jsonargparse (4.53) reads ``--data.init_args.division.fold null`` as the text ``None``, and
    ``--data.init_args.division '{"fold": null}'`` right; other fields are kept.

    Example:
        >>> with_nulls(["--data.init_args.division.fold", "null"])
        ['--data.init_args.division={"fold": null}']
    """
    found: list[str] = []
    rest = iter(args)
    for arg in rest:
        match = _FIELD.fullmatch(arg)
        value = "null" if match is None or match[3] else next(rest, None)
        if match is None or value != "null":
            found += [arg] if match is None or value is None else [arg, value]
        else:
            found.append(f'--{match[1]}={{"{match[2]}": null}}')
    return found


def given(options: argparse.Namespace) -> Iterator[tuple[Option, Any]]:
    """Yield the options that were given, with their values."""
    for option in OPTIONS:
        value = getattr(options, option.name, None)
        if option.of(options.command) and value is not None and value is not False:
            yield option, value


def overrides(options: argparse.Namespace) -> Settings:
    """Return the given options as settings of LightningCLI."""
    return [(option.target, str(value)) for option, value in given(options) if option.target]
