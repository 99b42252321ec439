"""``mbls evaluate RUN``: test a checkpoint of a run again, or an ensemble of several runs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mbls.config.choices import below
from mbls.config.decide import decided, decisions_folder
from mbls.config.ensembles import CHECKPOINT, ensemble_folder, members_of
from mbls.config.moved import read_run_config
from mbls.config.options import Settings, overrides, parse, parser, to_argv
from mbls.config.runs import root_name, setting_value
from mbls.runtime.errors import CheckpointError, RunFolderError, UsageError
from mbls.runtime.files import read_card
from mbls.runtime.ranks import print_once

__all__ = ["decided_settings", "main", "run_settings", "tag_of"]

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
    _check_home(options.run, options.calibrator, options.tag)
    settings = run_settings(options.run, name)
    config = read_run_config(options.run / "config.yaml")
    given = decided_settings([*overrides(options), *rest], options.run, name, config)
    if options.data_root is not None:
        given = [*external_test(options.run, config, options.data_root, given), *given]
    tag = options.tag or tag_of(name, given, config)
    settings += [("run.tag", tag), ("verbose", "false"), ("results.verbose", "false"), *given]

    from mbls.config.cli import command_line

    command_line(["test", *to_argv(settings)])
    return 0


def _check_home(run: Path, calibrator: Path | None, tag: str | None) -> None:
    """Raise CheckpointError for a calibrator of another run whose test has no name of its own."""
    if calibrator is None or tag is not None:
        return
    if (run / "calibrators").resolve() not in calibrator.resolve().parents:
        raise CheckpointError(
            f"{calibrator} is not in {run}/calibrators: name its results with --tag NAME "
            "(make: TAG=NAME)."
        )


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
    trained = read_card(run).get("trained_on") or []
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
        >>> tag_of("best", [("corrupt.image", "noise:3")], {})
        'best~noise-3'
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
    name = "-".join(parts)
    if (corrupted := setting_value(given, "corrupt.image")) not in (None, "null"):
        name += f"~{corrupted.replace(':', '-')}"
    files = [setting_value(given, f"post_hoc.{name}") for name in ("calibrator", "decide")]
    return "+".join([name, *(Path(file).stem for file in files if file is not None)])


def decided_settings(
    given: Settings, run: Path, checkpoint: str, config: Mapping[str, Any]
) -> Settings:
    """Return settings with what ``DECIDE=threshold`` means for a run.

    Its file is that of the same probabilities: of the checkpoint, calibrator, mirrorings and so
    on, whatever patients are tested.

    Raises:
        DecisionError: See :func:`mbls.config.decide.decided`.
    """
    others = ("data.", "model.n_bins", "post_hoc.decide", "corrupt.")
    alike = [setting for setting in given if not setting[0].startswith(others)]
    return decided(given, decisions_folder(run, tag_of(checkpoint, alike, config)))


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

    members = members_of(folder)
    if members and which != "best":
        raise CheckpointError(
            f"{folder} is an ensemble, of which the members are tested as they are, got the "
            f"checkpoint {which!r}: name the checkpoints as an ensemble of their own (--runs)."
        )
    if missing := [member for member in members if not member.exists()]:
        raise RunFolderError(f"The member {missing[0]} of {folder} does not exist.")
    first, *rest = members or [folder]
    checkpoint = first if first.suffix == CHECKPOINT else find_checkpoint(first, which)
    settings: Settings = [("config", str(config)), ("ckpt_path", str(checkpoint))]
    if rest:
        settings.append(("post_hoc.members", json.dumps([str(member) for member in rest])))
    return [*settings, ("run.folder", str(folder))]
