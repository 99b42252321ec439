"""LightningCLI for fit, validate, test and predict, from layered ``--config`` files."""

import copy
import itertools
import json
import logging
import warnings
from argparse import ArgumentError
from collections.abc import Hashable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse.typing import register_type
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar as LightningBar
from lightning.pytorch.cli import (
    ArgsType,
    LightningArgumentParser,
    LightningCLI,
    SaveConfigCallback,
)
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mbls.callbacks import (
    Checkpoints,
    Corrupt,
    Diagrams,
    EpochLines,
    GracefulStop,
    MultiplierFigure,
    NaNGuard,
    PostHoc,
    PredictionWriter,
    ProgressBar,
    Resumption,
    RunCard,
    RunFolder,
    Speed,
    StepSeed,
    TestResults,
    read_checkpoint,
    run_folder,
)
from mbls.callbacks.run_folder import find_callback, folder_callback
from mbls.config.checks import (
    check_contract,
    check_fit,
    check_launcher,
    check_trainer,
    refuse_other_data,
    warn,
    warn_of_changed_data,
    warn_of_trained_patients,
)
from mbls.config.choices import names_of, read_yaml, require_tracker
from mbls.config.identity import config_hash
from mbls.config.moved import updated
from mbls.config.options import Settings, to_argv, with_nulls
from mbls.config.parse_errors import explain
from mbls.config.plan import fill_img_size, fill_plan
from mbls.config.preparation import prepare_once
from mbls.module import SegmentationModule
from mbls.runtime.allocator import keep_freed_memory
from mbls.runtime.errors import CheckpointError, UsageError, setting_errors
from mbls.runtime.files import replace_file
from mbls.runtime.rank_zero import on_rank_zero

# types of settings that config.yaml must be able to represent: callbacks', and MONAI's keys
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, each: dumper.represent_data(each.value))
register_type(torch.device, str, torch.device)
register_type(Hashable, lambda key: key, lambda key: key)

__all__ = ["CommandLine", "RunConfig", "command_line", "main", "resolve"]

LINKS = {  # property of the datamodule -> arguments of the model
    "num_classes": ("model.num_classes", "model.network.init_args.out_channels"),
    "class_keys": ("model.class_keys",),
    "unions": ("model.unions",),
    "in_channels": ("model.network.init_args.in_channels",),
    "spatial_dims": ("model.network.init_args.spatial_dims", "model.spatial_dims"),
    "patch_size": ("model.patch_size",),
    "crop": ("model.crop",),
}


CALLBACKS: dict[str, type[Callback]] = {  # of every run, by their names in config.yaml
    "run": RunFolder,
    "card": RunCard,
    "nan_guard": NaNGuard,
    "lines": EpochLines,
    "stop": GracefulStop,
    "speed": Speed,
    "checkpoint": Checkpoints,
    "resumption": Resumption,
    "step_seed": StepSeed,
    "multipliers": MultiplierFigure,
    "diagrams": Diagrams,
    "post_hoc": PostHoc,
    "corrupt": Corrupt,
    "results": TestResults,
    "predictions": PredictionWriter,
}


class RunConfig(SaveConfigCallback):
    """Save the resolved configuration of a fit as ``config.yaml`` in the run folder."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file once on rank 0; a resumed run keeps its file and updates max_epochs."""
        if stage != "fit" or self.already_saved:
            return
        path = run_folder(trainer) / "config.yaml"

        def write() -> None:
            if not path.exists():
                replace_file(path, self.parser.dump(self.config, skip_none=False).encode())
            else:
                _raise_epochs(path, trainer.max_epochs)

        on_rank_zero(trainer, write)
        self.already_saved = True


def _raise_epochs(path: Path, epochs: int | None) -> None:
    """Raise max_epochs in config.yaml to that of the resumed run."""
    content = read_yaml(path)
    recorded = content["trainer"]["max_epochs"]
    if recorded is not None and epochs is not None and recorded < epochs:
        content["trainer"]["max_epochs"] = epochs
        replace_file(path, yaml.safe_dump(content, sort_keys=False).encode())


class CommandLine(LightningCLI):
    """LightningCLI with the callbacks of every run and links from the datamodule to the model."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks' settings and the links."""
        for name, callback in CALLBACKS.items():
            parser.add_lightning_class_args(callback, name)
        for source, targets in LINKS.items():
            for target in targets:
                parser.link_arguments(f"data.{source}", target, apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed")
        parser.link_arguments("seed_everything", "run.seed")
        parser.link_arguments("seed_everything", "step_seed.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the arguments, and check the checkpoint before Lightning reads it."""
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            configs = config_paths(args if isinstance(args, list) else [])
            message = explain(str(error), options=_options(self), configs=configs)
            raise UsageError(message) from error
        command = self.config["subcommand"]
        fill_plan(self.config[command].data)
        fill_img_size(self.config[command])
        path = self.config[command].get("ckpt_path")
        if self.config[command].run.resume and command == "fit":
            return  # the checkpoint is chosen once the folder is locked
        if path:
            read_checkpoint(Path(path))
        elif command != "fit":
            raise CheckpointError(
                f"{command} without a checkpoint would use untrained weights. Give --ckpt_path "
                "RUN/checkpoints/best.ckpt."
            )

    def resolved(self) -> dict[str, Any]:
        """Return the configuration of the subcommand in the form of config.yaml."""
        config = copy.deepcopy(self.config[self.subcommand])  # jsonargparse changes what it dumps
        text = self._parser(self.subcommand).dump(config, skip_none=False)
        resolved: dict[str, Any] = yaml.safe_load(text)
        return resolved

    def before_instantiate_classes(self) -> None:
        """Check the trainer's settings."""
        check_trainer(self.config[self.subcommand].trainer)

    def instantiate_classes(self) -> None:
        """Instantiate data, model and trainer; an error in a constructor is a user error."""
        with setting_errors(MisconfigurationException):
            super().instantiate_classes()

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would override the arguments with settings of the checkpoint."""

    def _dump_config(self) -> None:
        """Dump a copy: jsonargparse modifies the config that it dumps (a loss in a tuple)."""
        config, self.config = self.config, copy.deepcopy(self.config)
        super()._dump_config()
        self.config = config

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer with one progress bar at most, and without Lightning's requeueing.

        Under srun :class:`GracefulStop` and the batch script handle signals and requeueing.
        """
        config = self.config_init[self.subcommand]["trainer"]
        if callbacks := config.get("callbacks"):
            kwargs["callbacks"] = _with_one_bar(callbacks, config.get("enable_progress_bar"))
        if (
            not config.get("plugins")
            and SLURMEnvironment.detect()
            and not TorchElasticEnvironment.detect()
        ):
            kwargs["plugins"] = SLURMEnvironment(auto_requeue=False)
        trainer = super().instantiate_trainer(**kwargs)
        check_launcher(trainer)
        return trainer

    def before_fit(self) -> None:
        """Prepare the data before ranks start; load checkpoints with ``weights_only=True``."""
        options = self.config_init[self.subcommand]
        options["weights_only"] = True
        if "return_predictions" in options:
            options["return_predictions"] = False  # they are written to disk
        check_contract(self.datamodule)
        config, run = self.resolved(), folder_callback(self.trainer)
        fit = self.subcommand == "fit"
        warn(self.trainer, self.model, config, fit=fit)
        if fit:
            check_fit(self.trainer, self.model, self.datamodule)
            find_callback(self.trainer, RunCard).config_hash = config_hash(config)
        if self.trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()

        def prepare() -> None:
            if fit and run.resume:
                run.lock_to_resume(self.trainer)
            self.datamodule.prepare()

        try:
            prepare_once(self.trainer, prepare)
        except BaseException:
            run.release()
            raise
        if fit and run.resume and (checkpoint := run.checkpoint(self.trainer)):
            options["ckpt_path"] = str(checkpoint)
            warn_of_changed_data(checkpoint.parent.parent, self.datamodule, config["data"])

    before_validate = before_predict = before_fit

    def before_test(self) -> None:
        """Call :meth:`before_fit`, and refuse to overwrite results of other data."""
        self.before_fit()
        run = folder_callback(self.trainer)
        if run.folder is not None:
            data = self.resolved()["data"]
            refuse_other_data(run.folder, run.tag, self.datamodule, data)
            warn_of_changed_data(run.folder, self.datamodule, data)
            warn_of_trained_patients(run.folder, self.datamodule, data)


class _ParseOnly(CommandLine):
    """Parse a command line without building or running anything."""

    def _set_seed(self) -> None: ...
    def instantiate_classes(self) -> None: ...
    def _run_subcommand(self, subcommand: str) -> None: ...


def command_line(args: Sequence[str]) -> CommandLine:
    """Run the LightningCLI subcommand ``args[0]`` and return the command line."""
    _filter_messages()
    for path in map(Path, config_paths(args)):
        if path.parent.name == "logger":
            require_tracker(path)
        content = read_yaml(path)  # its errors name the file and the line
        if "card" in content and (new := updated(content)) != content:  # of an earlier version
            args = [_with_text(arg, str(path), json.dumps(new)) for arg in args]
    return _make(CommandLine, args)


def resolve(runs: Sequence[Settings]) -> Iterator[dict[str, Any]]:
    """Yield the configuration of each run in the form of config.yaml, without building anything.

    Raises:
        UsageError: An option or a value does not exist.
    """
    _filter_messages()
    for settings in runs:
        yield _make(_ParseOnly, ["fit", *to_argv(settings)]).resolved()


def _make(cls: type[CommandLine], args: Sequence[str]) -> CommandLine:
    strict = {"allow_abbrev": False, "exit_on_error": False}
    return cls(
        SegmentationModule,
        LightningDataModule,
        subclass_mode_data=True,
        save_config_callback=RunConfig,
        seed_everything_default=0,
        trainer_defaults={"use_distributed_sampler": False} | _without_float64(),
        parser_kwargs=strict | dict.fromkeys(("fit", "validate", "test", "predict"), strict),
        args=with_nulls(_with_names(list(args), names_of(config_paths(args)))),
    )


def _options(cli: CommandLine) -> list[str]:
    """Return all option names of LightningCLI's subcommands, such as ``trainer.max_epochs``."""
    parsers = cli._subcommand_parsers.values()
    return sorted({flag[2:] for p in parsers for flag in p._option_string_actions})


def _with_one_bar(callbacks: Any, enabled: bool | None) -> list[Callback]:
    """Return the callbacks without our progress bar if bars are disabled or another is given."""
    given = callbacks if isinstance(callbacks, list) else [callbacks]
    bars = [each for each in given if isinstance(each, LightningBar)]
    superfluous = enabled is False or len(bars) > 1
    return [each for each in given if not (superfluous and isinstance(each, ProgressBar))]


def config_paths(args: Sequence[str]) -> list[str]:
    """Return the files that ``--config FILE`` and ``--config=FILE`` name in ``args``, not texts."""
    paths = [after for arg, after in itertools.pairwise(args) if arg == "--config"]
    paths += [arg.partition("=")[2] for arg in args if arg.startswith("--config=")]
    return [path for path in paths if not path.startswith("{")]


def _with_text(arg: str, path: str, text: str) -> str:
    """Return an argument with the text of a configuration instead of its path."""
    return arg.removesuffix(path) + text if arg in (path, f"--config={path}") else arg


def _with_names(args: list[str], names: dict[str, str]) -> list[str]:
    """Add the names of the chosen files as the run folder's defaults."""
    defaults = {
        "dataset": names.get("data"),
        "network": names.get("network"),
        "loss": names.get("loss"),
    }
    extra = [
        f"--run.{key}={name}"
        for key, name in defaults.items()
        if name and not any(arg.startswith(f"--run.{key}") for arg in args)
    ]
    return args[:1] + extra + args[1:]


def _without_float64() -> dict[str, str]:
    """Return trainer defaults that use the CPU instead of MPS, which lacks the metrics' float64."""
    only_mps = torch.backends.mps.is_available() and not torch.cuda.is_available()
    return {"accelerator": "cpu"} if only_mps else {}


def _filter_messages() -> None:
    """Suppress messages that users cannot act on, and those that other ranks repeat."""
    for text in (
        ".*does not have many workers.*",
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
        ".*The number of training batches.*",
        ".*LightningCLI's args parameter is intended.*",
        ".*You have overridden `on_before_batch_transfer` in `LightningModule`.*",  # intended
        ".*AMP with fp16 is not supported on CPU.*",  # mbls.config.checks warns about it
        ".*The `srun` command is available on your system but is not used.*",
    ):
        warnings.filterwarnings("ignore", message=text)
    for name in ("pytorch.utilities.rank_zero", "fabric.utilities.seed"):
        logging.getLogger(f"lightning.{name}").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric.utilities.distributed").setLevel(logging.WARNING)
    if getattr(rank_zero_only, "rank", 0) > 0:
        warnings.simplefilter("ignore")
        for name in ("lightning", "lightning.fabric", "lightning.pytorch"):
            logging.getLogger(name).setLevel(logging.ERROR)


def main(args: list[str]) -> int:
    """Run one LightningCLI subcommand."""
    folder_callback(command_line(args).trainer).release()
    return 0
