"""From the options of ``mbls train`` to LightningCLI's settings, of a new run or a resumed one."""

import argparse
from pathlib import Path
from typing import Any

from mbls.config.choices import below, choices, choose, compose, read_yaml, stated_dims
from mbls.config.options import Settings, given, overrides
from mbls.config.specs import parse_loss
from mbls.runtime.errors import ChoiceError, RunFolderError
from mbls.runtime.jobs import has_begun

__all__ = ["chosen_names", "require", "run_settings", "stated"]


def run_settings(options: argparse.Namespace, rest: Settings) -> Settings:
    """Return the settings of the run that ``mbls train`` is asked for.

    A batch job that is queued again resumes its run with the configuration that it wrote then.

    Args:
        options: The options of the command; ``resume`` is set for such a job.
        rest: LightningCLI's own settings, which come last.

    Raises:
        ChoiceError: A name that does not exist or is missing, an option that a resumed run refuses.
        RunFolderError: No folder to resume in, or a job without a folder.
    """
    if options.job and options.run is None:
        raise RunFolderError("--job needs the run folder that the job is to make: --run FOLDER.")
    if options.job and has_begun(options.run, options.job):
        for option, _ in given(options):
            if option.name not in ("run", "job", "prepare", "dry"):
                setattr(options, option.name, None)
        options.resume, rest = True, []
    if options.resume:
        return [*resumed_run(options, rest), *overrides(options), *rest]
    return [*new_run(options), *overrides(options), *rest]


def new_run(options: argparse.Namespace) -> Settings:
    """Return the configuration files of a new run, and what its names add to them."""
    require(options, "dataset", "loss")
    names, loss = chosen_names(options), parse_loss(options.loss)
    loggers = options.logger.split(",") if options.logger else ()
    files = compose(**names, loss=loss.name, dims=options.dim, loggers=loggers)
    return [
        *(("config", str(file)) for file in files),
        *((f"run.{kind}", Path(names[kind]).stem) for kind in ("dataset", "network")),
        ("run.loss", loss.label),
        *loss.overrides(),
        *dim_override(options, names["network"]),
        ("card.preset", names["preset"]),
    ]


def resumed_run(options: argparse.Namespace, rest: Settings) -> Settings:
    """Return the configuration file of the run folder to resume in."""
    if any(name == "ckpt_path" for name, _ in rest):
        raise ChoiceError(
            "--resume continues from the run's last checkpoint, so that its values are those of "
            "one run: leave out --ckpt_path, or start a new run from it without --resume."
        )
    for option, _ in given(options):
        if not option.resume:
            raise ChoiceError(
                f"--resume keeps what {options.run} was started with: leave out {option.flag}, or "
                "start a new run."
            )
    if options.run is None:
        raise RunFolderError("--resume needs the run folder to resume in: --run FOLDER.")
    return [("config", str(config_of(options.run)))]


def config_of(run: Path) -> Path:
    """Return the configuration that a run folder was started with.

    Raises:
        RunFolderError: There is none.
    """
    if not (run / "config.yaml").is_file():
        raise RunFolderError(
            f"--resume continues in a run folder: {run} has no config.yaml. "
            "Give --run runs/<dataset>/<network>-<loss>/seed<k>. What is left of a run that ended "
            "before it wrote the file may be removed, and the run started from scratch."
        )
    return run / "config.yaml"


def chosen_names(options: argparse.Namespace) -> dict[str, str]:
    """Return the dataset, network and preset of a run, defaults filled in."""
    preset = options.preset or ("quick" if options.data_root is None else "paper")
    network = options.network or default_network(options, preset)
    return {"dataset": options.dataset, "network": network, "preset": preset}


def default_network(options: argparse.Namespace, preset: str) -> str:
    """Return the network of a run that names none."""
    if (options.dim or stated_dims(choose("data", options.dataset))) == 3:
        return "unet3d"
    return "unet_paper" if preset == "paper" else "unet"


def dim_override(options: argparse.Namespace, network: str) -> Settings:
    """Return the setting for slices or volumes where the network's file asks for the other."""
    asked = stated_dims(choose("network", network))
    if options.dim is None or asked in (None, options.dim):
        return []
    return [("data.init_args.spatial_dims", str(options.dim))]


def require(options: argparse.Namespace, *names: str) -> None:
    """Refuse options without one of these, and list what it can be."""
    for name in names:
        if getattr(options, name) is None:
            kind = {"dataset": "data"}.get(name, name)
            raise ChoiceError(f"--{name} is needed: one of {', '.join(choices(kind))}.")


def stated(settings: Settings, name: str) -> Any:
    """Return what settings and their files state last for a dotted name, None if nothing."""
    found: Any = None
    for key, value in settings:
        if key == name:
            found = value
        elif key == "config":
            here = below(read_yaml(Path(str(value))), *name.split("."))
            found = found if here is None else here
    return found
