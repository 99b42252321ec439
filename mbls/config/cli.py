"""LightningCLI for fit, validate, test and predict, from layered ``--config`` files."""

import copy
import itertools
import json
import logging
import warnings
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse.typing import register_type
from lightning.fabric.strategies.launchers import subprocess_script
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
    Diagrams,
    EpochLines,
    GracefulStop,
    MultiplierFigure,
    NaNGuard,
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
from mbls.callbacks.run_folder import folder_callback
from mbls.config.choices import below, names_of, read_yaml, require_tracker
from mbls.config.neutral import NEUTRAL, is_below
from mbls.config.preparation import (
    check_launcher,
    check_ranks,
    first_ends,
    prepare_once,
    require_gpu,
    started_by_hand,
)
from mbls.config.wrong_words import explain
from mbls.data import DataModule, missing_from
from mbls.module import SegmentationModule
from mbls.networks.trial import check_patch
from mbls.runtime.allocator import keep_freed_memory
from mbls.runtime.errors import (
    CheckpointError,
    ChoiceError,
    FirstRankError,
    Interrupted,
    NonFiniteError,
    OutputError,
    RunFolderError,
    SettingError,
    UsageError,
    rank_lost,
    settings_told,
)
from mbls.runtime.files import replace_file
from mbls.runtime.rank_zero import on_rank_zero, told_by
from mbls.runtime.ranks import end_at_once, say

# what callbacks of lightning's have among their settings, so that config.yaml can be read again
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, each: dumper.represent_data(each.value))
register_type(torch.device, str, torch.device)

__all__ = ["CommandLine", "RunConfig", "check_words", "command_line", "main", "one_voice"]

# most often every rank raises these alike, so that the first one can speak for all
SHARED_ERRORS = (
    CheckpointError,
    ChoiceError,
    FirstRankError,
    Interrupted,
    NonFiniteError,
    OutputError,
    RunFolderError,
    SettingError,
)

CHECKPOINTS = ("best", "last", "previous")  # tags that are the run's own
FEW = 10  # epochs of which nobody is warned

FACTS = {  # what the datamodule knows -> where the model wants it
    "num_classes": ("model.num_classes", "model.network.init_args.out_channels"),
    "class_keys": ("model.class_keys",),
    "unions": ("model.unions",),
    "in_channels": ("model.network.init_args.in_channels",),
    "spatial_dims": ("model.network.init_args.spatial_dims", "model.spatial_dims"),
    "patch_size": ("model.patch_size",),
    "crop": ("model.crop",),
}


class RunConfig(SaveConfigCallback):
    """Save the resolved configuration as ``config.yaml`` into the run folder of a fit."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write on rank 0, once; a resumed run keeps the file it has, but for more epochs."""
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
    """Keep that a run goes on to more epochs, for the time it goes on again."""
    content = read_yaml(path)
    stated = content["trainer"]["max_epochs"]
    if stated is not None and epochs is not None and stated < epochs:
        content["trainer"]["max_epochs"] = epochs
        replace_file(path, yaml.safe_dump(content, sort_keys=False).encode())


class CommandLine(LightningCLI):
    """LightningCLI with the callbacks that watch every run and the datamodule's facts linked."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks' settings and the links."""
        parser.add_lightning_class_args(RunFolder, "run")
        parser.add_lightning_class_args(RunCard, "card")
        parser.add_lightning_class_args(NaNGuard, "nan_guard")
        parser.add_lightning_class_args(EpochLines, "lines")
        parser.add_lightning_class_args(GracefulStop, "stop")
        parser.add_lightning_class_args(Speed, "speed")
        parser.add_lightning_class_args(Checkpoints, "checkpoint")
        parser.add_lightning_class_args(Resumption, "resumption")
        parser.add_lightning_class_args(StepSeed, "step_seed")
        parser.add_lightning_class_args(MultiplierFigure, "multipliers")
        parser.add_lightning_class_args(Diagrams, "diagrams")
        parser.add_lightning_class_args(TestResults, "results")
        parser.add_lightning_class_args(PredictionWriter, "predictions")
        for fact, targets in FACTS.items():
            for target in targets:
                parser.link_arguments(f"data.{fact}", target, apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed")
        parser.link_arguments("seed_everything", "run.seed")
        parser.link_arguments("seed_everything", "step_seed.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and look at the checkpoint before lightning reads it."""
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            configs = config_paths(args if isinstance(args, list) else [])
            told = explain(str(error), options=_options(self), configs=configs)
            raise UsageError(told) from error
        command = self.config["subcommand"]
        path = self.config[command].get("ckpt_path")
        if self.config[command].run.resume and command == "fit":
            return  # from what the folder holds when it is ours
        if path:
            read_checkpoint(Path(path))
        elif command != "fit":
            raise CheckpointError(
                f"{command} without a checkpoint would use untrained weights: give --ckpt_path "
                "RUN/checkpoints/best.ckpt."
            )

    def instantiate_classes(self) -> None:
        """Make data, model and trainer, and say of a setting that one refuses what it says."""
        with settings_told(MisconfigurationException):
            super().instantiate_classes()

    def _parse_ckpt_path(self) -> None:
        """Keep to the words: lightning lets the settings in a checkpoint override them."""

    def _dump_config(self) -> None:
        """Dump a copy: jsonargparse leaves its dump of a loss within a tuple in what it dumps."""
        config, self.config = self.config, copy.deepcopy(self.config)
        super()._dump_config()
        self.config = config

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer, with what goes together where lightning would refuse.

        Under srun signals and requeueing are left to :class:`GracefulStop` and the batch script;
        the configuration's bar makes room for none and for another one.
        """
        stated = self.config_init[self.subcommand]["trainer"]
        _refuse(stated)
        if callbacks := stated.get("callbacks"):
            kwargs["callbacks"] = _with_one_bar(callbacks, stated.get("enable_progress_bar"))
        if (
            not stated.get("plugins")
            and SLURMEnvironment.detect()
            and not TorchElasticEnvironment.detect()
        ):
            kwargs["plugins"] = SLURMEnvironment(auto_requeue=False)
        asked = self.config[self.subcommand].trainer
        require_gpu(asked.get("accelerator"))
        trainer = super().instantiate_trainer(**kwargs)
        check_launcher(trainer)
        if asked.get("precision") == "16-mixed" and trainer.precision == "bf16-mixed":
            say(
                "Warning: 16-mixed is for GPUs. On the CPU bf16-mixed runs in its place; "
                "PRECISION=32-true (--precision) is full precision."
            )
        return trainer

    def before_fit(self) -> None:
        """Prepare the data before ranks start, and load checkpoints as plain state dicts alone."""
        options = self.config_init[self.subcommand]
        options["weights_only"] = True
        if "return_predictions" in options:
            options["return_predictions"] = False  # they are written, not kept
        self._warn()
        run = folder_callback(self.trainer)
        goes_on = self.subcommand == "fit" and run.resume
        if missing := missing_from(self.datamodule):
            raise SettingError(
                f"{type(self.datamodule).__name__} is no datamodule for mbls: it lacks "
                f"{', '.join(missing)}. Derive it from datamodules.SegmentationDataModule, or keep "
                "the contract of mbls.data.DataModule."
            )
        if self.subcommand == "fit":
            check_ranks(self.trainer, self.datamodule)
            self._check_patch()
        if self.trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()

        def prepare() -> None:
            if goes_on:
                run.take_up(self.trainer)
            self.datamodule.prepare()

        try:
            prepare_once(self.trainer, prepare)
        except BaseException:
            run.release()
            raise
        if goes_on and (checkpoint := run.checkpoint(self.trainer)):
            options["ckpt_path"] = str(checkpoint)

    before_validate = before_predict = before_fit

    def before_test(self) -> None:
        """As :meth:`before_fit`; and leave results of other data where they are."""
        self.before_fit()
        run = folder_callback(self.trainer)
        if run.folder is not None:
            parser, stated = self._parser(self.subcommand), self.config[self.subcommand]
            config = yaml.safe_load(parser.dump(stated, skip_none=False))  # as in config.yaml
            refuse_other_data(run.folder, run.tag, self.datamodule, config["data"])

    def _warn(self) -> None:
        """Tell of what is allowed and most often not meant."""
        stated, fit = self.config[self.subcommand], self.subcommand == "fit"
        flip = below(stated.data.as_dict(), "init_args", "augmentation", "flip")
        if (axes := self.model.mirror) and not flip:
            along = f"{'the axes' if len(axes) > 1 else 'axis'} {', '.join(map(str, axes))}"
            say(
                f"Warning: logits are averaged over mirrorings along {along}, of which this "
                "network never saw one "
                f"(data.init_args.augmentation.flip is {flip}): expect a lower Dice. Leave out "
                "MIRROR (--mirror), or train with flips."
            )
        epochs, cpu = self.trainer.max_epochs or 0, self.trainer.strategy.root_device.type == "cpu"
        if fit and cpu and stated.card.preset == "paper" and epochs > FEW and not stated.run.resume:
            say(
                f"Warning: no GPU is used, and PRESET=paper trains for {epochs} epochs: on a CPU "
                "that may take days. A short run is EPOCHS=2 PRESET=quick (--epochs, --preset)."
            )

    def _check_patch(self) -> None:
        """Raise SettingError if the network cannot be trained on what the data say they yield."""
        patch = self.datamodule.patch_size
        if patch is not None:
            mine = max(self.datamodule.batch_size // self.trainer.world_size, 1)
            batch = (mine, self.datamodule.in_channels, *patch)
            check_patch(self.model.network, batch, divisor=self.model.divisor)


def command_line(args: Sequence[str]) -> CommandLine:
    """Run the LightningCLI subcommand that ``args`` begin with, and return the command line."""
    _quieten()
    _hush()
    logging.getLogger(subprocess_script.__name__).addFilter(_say_why_it_ends)
    with one_voice():
        for path in map(Path, config_paths(args)):
            if path.parent.name == "logger":
                require_tracker(path)
            read_yaml(path)  # which names the file and the line of what is no YAML
        return _made(CommandLine, args)


def check_words(args: Sequence[str]) -> None:
    """Parse the words of a LightningCLI subcommand, and build nothing.

    Raises:
        UsageError: An option or a value that does not exist.
    """
    _quieten()
    try:
        _made(_Parsed, args)
    except _WordsAreRight:
        return


class _WordsAreRight(Exception):  # noqa: N818
    pass


class _Parsed(CommandLine):
    def before_instantiate_classes(self) -> None:
        raise _WordsAreRight


def _made(cls: type[CommandLine], args: Sequence[str]) -> CommandLine:
    strict = {"allow_abbrev": False, "exit_on_error": False}
    return cls(
        SegmentationModule,
        LightningDataModule,
        subclass_mode_data=True,
        save_config_callback=RunConfig,
        seed_everything_default=0,
        trainer_defaults={"use_distributed_sampler": False} | _without_float64(),
        parser_kwargs=strict | dict.fromkeys(("fit", "validate", "test", "predict"), strict),
        args=_with_names(list(args), names_of(config_paths(args))),
    )


def refuse_other_data(run: Path, tag: str, data: DataModule, stated: dict[str, Any]) -> None:
    """Refuse to overwrite the results of a run's test by those of other data.

    Args:
        run: The run folder.
        tag: Name of the results' folder.
        data: What is tested.
        stated: The configuration of ``data``; what the run itself states may be tested again.

    Raises:
        RunFolderError: The results that are there, or those a run has by this name, are of others.
    """
    config, ours = run / "config.yaml", data.fingerprint
    own = below(read_yaml(config), "data", "init_args") if config.is_file() else None
    if own is None or _same(own, stated.get("init_args") or {}):
        return
    results, card = run / "test" / tag / "metrics.json", run / "run.json"
    if results.is_file():
        theirs = below(_read_json(results), "meta", "data_fingerprint")
    else:
        theirs = below(_read_json(card), "data_fingerprint") if tag in CHECKPOINTS else None
    if theirs not in (None, ours):
        raise RunFolderError(
            f"{results.parent} is for the results of other data than these (data_fingerprint "
            f"{str(theirs)[:12]}, not {ours[:12]}), which are not overwritten. Give these a name "
            "of their own: TAG=NAME (--tag)."
        )


def _same(own: dict[str, Any], asked: dict[str, Any]) -> bool:
    """Return True if two configurations of the data differ in nothing that changes a test."""
    return all(
        str(own[name]) == str(asked[name])
        for name in own.keys() & asked.keys()
        if name == "root" or not is_below(f"data.init_args.{name}", NEUTRAL)
    )


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):  # none, or half of one
        return None


def _options(cli: CommandLine) -> list[str]:
    """Return the names of all options of LightningCLI's subcommands, ``trainer.max_epochs``."""
    parsers = cli._subcommand_parsers.values()
    return sorted({word[2:] for p in parsers for word in p._option_string_actions})


@contextmanager
def one_voice() -> Iterator[None]:
    """Let rank 0 alone report what all ranks raise, and another rank what it raises alone.

    Where rank 0 is known to speak, the others end without a word and with status 0: the job's is
    that of rank 0, which a failure of theirs could end before it has spoken. Otherwise a rank waits
    for rank 0 to raise the same, whose end is then its own too, and speaks after a while. The first
    rank of a node that was started by hand has a console of its own and always speaks.
    """
    try:
        yield
    except SHARED_ERRORS as error:
        if _rank() == 0 or started_by_hand():
            raise
        if not getattr(error, "of_all_ranks", False) and not first_ends():
            raise type(error)(told_by(error, _rank())) from error
        end_at_once(0)


def _refuse(trainer: Mapping[str, Any]) -> None:
    """Refuse settings of the trainer that no run here can have.

    Raises:
        ChoiceError: Says which one, and what to do instead.
    """
    if trainer.get("enable_checkpointing") is False:
        raise ChoiceError(
            "trainer.enable_checkpointing must not be false: a run is tested and resumed from its "
            "checkpoints. Leave it out."
        )
    if trainer.get("overfit_batches"):
        raise ChoiceError(
            "trainer.overfit_batches must be 0: it would replace the sampler, which draws samples "
            "by seed and epoch. To train on few cases name them in a split (SPLIT=file.json, "
            "--split); to train for few steps take --trainer.limit_train_batches."
        )
    if trainer.get("limit_train_batches") == 0:
        raise ChoiceError(
            "trainer.limit_train_batches must be above 0, got 0: nothing would be trained. To test "
            "a checkpoint take make evaluate RUN=FOLDER (mbls evaluate FOLDER)."
        )
    if trainer.get("barebones"):
        raise ChoiceError(
            "trainer.barebones must be false: it leaves out checkpoints and logged values, which a "
            "run is made of. Leave it out."
        )


def _with_one_bar(callbacks: Any, enabled: bool | None) -> list[Callback]:
    """Return the callbacks without our bar where no bar is asked for, or another one."""
    given = callbacks if isinstance(callbacks, list) else [callbacks]
    bars = [each for each in given if isinstance(each, LightningBar)]
    superfluous = enabled is False or len(bars) > 1
    return [each for each in given if not (superfluous and isinstance(each, ProgressBar))]


def config_paths(args: Sequence[str]) -> list[str]:
    """Return the files that ``--config FILE`` and ``--config=FILE`` name in ``args``."""
    paths = [after for word, after in itertools.pairwise(args) if word == "--config"]
    return paths + [word.partition("=")[2] for word in args if word.startswith("--config=")]


def _with_names(args: list[str], names: dict[str, str]) -> list[str]:
    """Give the run folder the names of the chosen files, unless the words give others."""
    defaults = {
        "dataset": names.get("data"),
        "network": names.get("network"),
        "loss": names.get("loss"),
    }
    extra = [
        f"--run.{key}={name}"
        for key, name in defaults.items()
        if name and not any(word.startswith(f"--run.{key}") for word in args)
    ]
    return args[:1] + extra + args[1:]


def _without_float64() -> dict[str, str]:
    """Keep to the CPU where the only accelerator, Apple's, cannot do the metrics' float64."""
    only_mps = torch.backends.mps.is_available() and not torch.cuda.is_available()
    return {"accelerator": "cpu"} if only_mps else {}


def _quieten() -> None:
    """Silence what a user can do nothing about, and lightning's advice and device listing."""
    for text in (
        ".*does not have many workers.*",
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
        ".*The number of training batches.*",
        ".*LightningCLI's args parameter is intended.*",
        ".*You have overridden `on_before_batch_transfer` in `LightningModule`.*",  # as is meant
        ".*AMP with fp16 is not supported on CPU.*",  # said in fewer words
        ".*The `srun` command is available on your system but is not used.*",
    ):
        warnings.filterwarnings("ignore", message=text)
    for name in ("pytorch.utilities.rank_zero", "fabric.utilities.seed"):
        logging.getLogger(f"lightning.{name}").setLevel(logging.WARNING)


def _rank() -> int:
    return getattr(rank_zero_only, "rank", 0)


def _hush() -> None:
    """Keep every rank but the first from repeating what the first says."""
    logging.getLogger("lightning.fabric.utilities.distributed").setLevel(logging.WARNING)
    if _rank() > 0:
        warnings.simplefilter("ignore")
        for name in ("lightning", "lightning.fabric", "lightning.pytorch"):
            logging.getLogger(name).setLevel(logging.ERROR)


def _say_why_it_ends(record: logging.LogRecord) -> bool:
    """Say more in lightning's line on a rank that has ended, after which it kills the others."""
    text = record.getMessage()
    if "Child process with PID" in text:
        reason = text.partition(". ")[0].replace("[rank: ", "rank ").replace("] ", ": ", 1)
        record.msg, record.args = f"\nmbls: {rank_lost(reason)}", ()
    return True


def main(args: list[str]) -> int:
    """Run one LightningCLI subcommand."""
    folder_callback(command_line(args).trainer).release()
    return 0
