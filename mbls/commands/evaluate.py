"""``mbls evaluate RUN``: test a checkpoint of a run again, or an ensemble of several runs."""

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mbls.config.choices import below
from mbls.config.moved import read_run_config
from mbls.config.options import Settings, overrides, parse, parser, to_argv
from mbls.config.runs import root_name, setting_value
from mbls.runtime.errors import CheckpointError, RunFolderError, UsageError
from mbls.runtime.files import replace_file, writing
from mbls.runtime.ranks import print_once

__all__ = ["ensemble_folder", "main", "members_of", "run_settings", "tag_of"]

CHECKPOINT = ".ckpt"
TAGGED = {  # settings that appear in a test's name, and their defaults
    "data.init_args.division.split": None,
    "data.init_args.division.fold": None,
    "model.grid": "preprocessed",
    "model.mirror": "[]",
    "model.window": None,
    "model.n_bins": "15",
    "trainer.precision": "32-true",
}


def main(args: list[str]) -> int:
    """Test one checkpoint of a run and write ``test/<tag>/``."""
    options, rest = parse(parser("evaluate", main.__doc__), args)
    if (options.run is None) == (options.runs is None):
        raise UsageError('Name one run folder, or several for their ensemble: --runs "A B".')
    if options.runs is not None:
        options.run = ensemble_folder(options.runs)
    name = options.ckpt or "best"
    if name.endswith(".ckpt") and options.tag is None:
        path = Path(name)
        if path.is_file() and path.resolve().parent != (options.run / "checkpoints").resolve():
            raise CheckpointError(
                f"{path} is not in {options.run}/checkpoints: name its results with --tag NAME "
                "(make: TAG=NAME)."
            )
    settings = run_settings(options.run, name)
    config = read_run_config(options.run / "config.yaml")
    given = [*overrides(options), *rest]
    if options.data_root is not None:
        given = [*external_test(options.run, config, options.data_root, given), *given]
    tag = options.tag or tag_of(name, given, config)
    settings += [("run.tag", tag), ("verbose", "false"), ("results.verbose", "false"), *given]

    from mbls.config.cli import command_line

    command_line(["test", *to_argv(settings)])
    return 0


def external_test(run: Path, config: Mapping[str, Any], root: Path, given: Settings) -> Settings:
    """Return the settings that test a run on all labeled patients of another folder.

    There are none if the folder is that of the run, or has all patients that it was trained on:
    then it is the run's own data at another place, of which the test part is tested.
    """
    from mbls.commands.data import datamodule_of

    own = below(config, "data", "init_args", "root")
    if own is not None and Path(own).resolve() == root.resolve():
        return []
    division = "data.init_args.division"
    settings: Settings = [
        (f"{division}.external", "true"),
        (f"{division}.split", "null"),
        (f"{division}.fold", "null"),
        (f"{division}.train_patients", "null"),
    ]
    if below(config, "data", "init_args", "name") is not None:
        settings.append(("data.init_args.name", root_name(root)))  # of its cache
    here: Settings = [("config", str(run / "config.yaml")), ("data.init_args.root", str(root))]
    data = datamodule_of([*here, *settings])
    trained = json.loads((run / "run.json").read_text()).get("trained_on") or []
    if trained and set(trained) <= set(data.patients("test")):
        print_once(
            f"{root} has all patients that {run} was trained on, so these are its own data, and "
            "the test part is tested. To test all patients: --data.init_args.division.external "
            "true --tag NAME."
        )
        return []
    if set(trained) & set(data.patients("test")):  # a split file may leave them out
        data = datamodule_of([*here, *settings, *given])
    if seen := sorted(set(trained) & set(data.patients("test"))):
        print_once(
            f"Warning: {len(seen)} patients in {root} have the names of patients that {run} was "
            f"trained or validated on ({', '.join(seen[:3])}{', ...' if len(seen) > 3 else ''}). "
            "If they are the same, this is not a valid test: name the others in a split file, "
            "SPLIT=FILE (--split FILE)."
        )
    trained_as = below(config, "run", "dataset")
    return [*settings, ("run.dataset", f"{trained_as} on {root_name(root)}")]


def tag_of(checkpoint: str, given: Settings, run: Mapping[str, Any]) -> str:
    """Return the name of a test's results: the checkpoint, and the settings that differ.

    Args:
        checkpoint: ``best``, ``last``, or a file.
        given: The settings of the test.
        run: The run's configuration.

    Example:
        >>> tag_of("best", [("data.init_args.division.split", "ours.json"),
        ...                 ("model.grid", "native"),
        ...                 ("model.mirror", "[0, 1]"), ("model.window", "whole"),
        ...                 ("trainer.precision", "bf16-mixed")], {})
        'best-ours-native-mirrored-01-whole-bf16-mixed'
    """
    parts = [Path(checkpoint).stem]
    if setting_value(given, "data.init_args.division.external") == "true":
        root = setting_value(given, "data.init_args.root")
        parts.append("external" if root is None else root_name(Path(root)))
    for name, default in TAGGED.items():
        value, own = setting_value(given, name), below(run, *name.split("."))
        if value in (None, "null", str(default if own is None else own)):
            continue
        text = {"split": Path(value).stem, "fold": f"fold{value}", "n_bins": f"{value}bins",
                "mirror": "mirrored-" + "".join(filter(str.isdigit, value))}  # fmt: skip
        parts.append(text.get(name.rpartition(".")[2], value))
    files = [setting_value(given, f"post_hoc.{name}") for name in ("calibrator", "decide")]
    return "+".join(["-".join(parts), *(Path(file).stem for file in files if file is not None)])


def run_settings(folder: Path, which: str) -> Settings:
    """Return LightningCLI's settings for a checkpoint of a run folder.

    Raises:
        RunFolderError: ``folder`` is not a run folder.
        CheckpointError: The checkpoint does not exist.
    """
    config = folder / "config.yaml"
    if not config.is_file():
        raise RunFolderError(
            f"{folder} is not a run folder: it has no config.yaml. "
            "A run folder is runs/<dataset>/<network>-<loss>/seed<k>."
        )
    from mbls.callbacks import find_checkpoint

    first, *_ = members_of(folder) or [folder]
    checkpoint = first if first.suffix == CHECKPOINT else find_checkpoint(first, which)
    return [("config", str(config)), ("ckpt_path", str(checkpoint)), ("run.folder", str(folder))]


def members_of(folder: Path) -> list[Path]:
    """Return the runs or checkpoints of an ensemble's folder; none if it is that of one run."""
    card = folder / "run.json"
    members = json.loads(card.read_text()).get("members", []) if card.is_file() else []
    return [Path(member) for member in members]


def ensemble_folder(runs: Sequence[Path]) -> Path:
    """Return the folder of the results of an ensemble, ``ensemble-<n>`` above its runs.

    It is a run folder without checkpoints: ``run.json`` names the members, and ``config.yaml`` is
    that of the first with the others as ``post_hoc.members``.

    Args:
        runs: Run folders, of which the best checkpoints are taken, or checkpoints in them.

    Raises:
        RunFolderError: One is not a finished run, or is named twice.
    """
    members = [run.resolve() for run in runs]
    if len(set(members)) < len(members):
        named = " ".join(map(str, runs))
        raise RunFolderError(f"The runs of an ensemble must differ, got {named}.")
    folders = [m.parents[1] if m.suffix == CHECKPOINT else m for m in members]
    cards = [_finished_card(folder) for folder in folders]
    configs = [read_run_config(folder / "config.yaml") for folder in folders]
    _check_inputs(folders, configs)
    parent = Path(os.path.commonpath([run.parent for run in folders]))
    for number in itertools.count(1):
        folder = parent / f"ensemble-{len(runs)}{f'-{number}' if number > 1 else ''}"
        if not folder.exists() or members_of(folder) == members:
            break
    seen = sorted({patient for card in cards for patient in card.get("trained_on") or ()})
    losses = {card["loss"] for card in cards}
    card = cards[0] | {
        "members": [str(member) for member in members],
        "trained_on": seen,
        "loss": losses.pop() if len(losses) == 1 else "several losses",
        "wall_seconds": sum(each.get("wall_seconds", 0) for each in cards),
    }
    config = configs[0]
    config["post_hoc"] = {"members": [str(member) for member in members[1:]]}
    with writing(folder):
        folder.mkdir(exist_ok=True)
        replace_file(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False).encode())
        replace_file(folder / "run.json", (json.dumps(card, indent=2) + "\n").encode())
    return folder


def _finished_card(run: Path) -> dict[str, Any]:
    """Return the content of a finished run's ``run.json``."""
    if not (run / "run.json").is_file() or not (run / "config.yaml").is_file():
        raise RunFolderError(f"{run} is not a run folder: it has no run.json or config.yaml.")
    card: dict[str, Any] = json.loads((run / "run.json").read_text())
    if not card.get("finished"):
        raise RunFolderError(f"{run} is not finished: resume it, or leave it out.")
    return card


def _check_inputs(runs: Sequence[Path], configs: Sequence[Mapping[str, Any]]) -> None:
    """Raise RunFolderError if the networks were trained on images of another preparation."""
    for part in ("class_path", "init_args.preprocessing", "init_args.spatial_dims"):
        first, *others = (below(config, "data", *part.split(".")) for config in configs)
        for run, other in zip(runs[1:], others, strict=True):
            if other != first:
                raise RunFolderError(
                    f"The networks of an ensemble must see the same images: data.{part} of {run} "
                    f"is {other}, of {runs[0]} {first}."
                )
