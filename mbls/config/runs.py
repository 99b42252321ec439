"""Convert the options of ``mbls train`` to LightningCLI's settings, for a new or resumed run."""

import argparse
import os
from pathlib import Path
from typing import Any

from mbls.config.choices import below, choices, choose, compose, data_files, read_yaml, stated_dims
from mbls.config.options import Settings, given, overrides
from mbls.config.specs import parse_loss
from mbls.runtime.errors import ChoiceError, RunFolderError
from mbls.runtime.jobs import has_begun

__all__ = ["chosen_names", "require", "root_name", "run_settings", "setting_value"]


def run_settings(options: argparse.Namespace, rest: Settings) -> Settings:
    """Return the settings of the run for the options of ``mbls train``.

    A batch job that was requeued resumes its run with the configuration that it wrote before.

    Args:
        options: The options of the command; ``resume`` is set for a requeued job.
        rest: LightningCLI's own settings, which come last.

    Raises:
        ChoiceError: A name is missing or unknown, or an option is not allowed with ``--resume``.
        RunFolderError: There is no folder to resume in, or ``--job`` has no folder.
    """
    if options.job and options.run is None:
        raise RunFolderError("--job needs the run folder of the job: --run FOLDER.")
    if options.job and has_begun(options.run, options.job):
        for option, _ in given(options):
            if option.name not in ("run", "job", "prepare", "dry"):
                setattr(options, option.name, None)
        options.resume, rest = True, []
    if options.resume:
        return [*resumed_run(options, rest), *overrides(options), *rest]
    return [*new_run(options), *overrides(options), *rest]


def new_run(options: argparse.Namespace) -> Settings:
    """Return the configuration files of a new run, and the overrides from its names."""
    require(options, "dataset", "loss")
    names, loss = chosen_names(options), parse_loss(options.loss)
    loggers = options.logger.split(",") if options.logger else ()
    files = compose(**names, loss=loss.name, dims=options.dim, loggers=loggers)
    return [
        *(("config", str(file)) for file in files),
        ("run.dataset", dataset_name(options.dataset, options.data_root)),
        ("run.network", Path(names["network"]).stem),
        ("run.loss", loss.label),
        *loss.overrides(),
        *dim_override(options, names["network"]),
        ("card.preset", names["preset"]),
    ]


def resumed_run(options: argparse.Namespace, rest: Settings) -> Settings:
    """Return the configuration file of the run to resume."""
    if any(name == "ckpt_path" for name, _ in rest):
        raise ChoiceError(
            "--resume continues from the run's last checkpoint: leave out --ckpt_path, or start a "
            "new run from it without --resume."
        )
    for option, _ in given(options):
        if not option.resume:
            raise ChoiceError(
                f"--resume keeps the settings of {options.run}: leave out {option.flag}, or "
                "start a new run."
            )
    if options.run is None:
        raise RunFolderError("--resume needs the run folder: --run FOLDER.")
    return [("config", str(config_of(options.run)))]


def config_of(run: Path) -> Path:
    """Return the config.yaml of a run folder.

    Raises:
        RunFolderError: The file does not exist.
    """
    if not (run / "config.yaml").is_file():
        raise RunFolderError(
            f"--resume needs a run folder: {run} has no config.yaml. "
            "Give --run runs/<dataset>/<network>-<loss>/seed<k>. If the run ended before it wrote "
            "the file, remove the folder and start the run from scratch."
        )
    return run / "config.yaml"


def chosen_names(options: argparse.Namespace) -> dict[str, str]:
    """Return the dataset, network and preset of a run, including defaults."""
    preset = options.preset or ("quick" if options.data_root is None else "paper")
    network = options.network or default_network(options, preset)
    return {"dataset": options.dataset, "network": network, "preset": preset}


def dataset_name(dataset: str, root: Path | None) -> str:
    """Return the name of a dataset in run folders: that of its YAML file, or of its data root.

    A file that leaves ``name`` to the data is a layout, of which there are many datasets.
    """
    arguments = below(read_yaml(choose("data", dataset)), "data", "init_args")
    if root is None or "name" not in (arguments or {}) or arguments["name"] is not None:
        return Path(dataset).stem
    return root_name(root)


def root_name(root: Path) -> str:
    """Return the name of the dataset in a folder or table: that of the folder for ``cases.csv``."""
    root = Path(os.path.normpath(root.absolute()))
    return root.parent.name if root.stem == "cases" else root.stem


def default_network(options: argparse.Namespace, preset: str) -> str:
    """Return the network of a run without ``--network``: what the dataset's files name, if any."""
    files = data_files(options.dataset, preset, options.dim)
    named = [below(read_yaml(file), "run", "network") for file in files]
    if found := [name for name in named if name is not None]:
        return str(found[-1])
    if (options.dim or stated_dims(choose("data", options.dataset))) == 3:
        return "unet3d"
    return "unet_paper" if preset == "paper" else "unet"


def dim_override(options: argparse.Namespace, network: str) -> Settings:
    """Return the override of ``spatial_dims`` if ``--dim`` differs from the network's file."""
    if options.dim is None or stated_dims(choose("network", network)) in (None, options.dim):
        return []
    return [("data.init_args.spatial_dims", str(options.dim))]


def require(options: argparse.Namespace, *names: str) -> None:
    """Raise ChoiceError, with the list of choices, if one of these options was not given."""
    for name in names:
        if getattr(options, name) is None:
            kind = {"dataset": "data"}.get(name, name)
            raise ChoiceError(f"--{name} is required: one of {', '.join(choices(kind))}.")


def setting_value(settings: Settings, name: str) -> Any:
    """Return the last value of a dotted name in settings and their files, or None."""
    found: Any = None
    for key, value in settings:
        if key == name:
            found = value
        elif key == "config":
            here = below(read_yaml(Path(str(value))), *name.split("."))
            found = found if here is None else here
    return found
