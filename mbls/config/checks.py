"""Checks before a run starts: errors for invalid settings, warnings for suspicious ones."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from mbls.config.choices import below
from mbls.config.identity import RUNTIME_ONLY, is_below
from mbls.config.moved import read_run_config
from mbls.data import DataModule, missing_from
from mbls.module import SegmentationModule
from mbls.networks.trial import check_patch
from mbls.runtime.errors import ChoiceError, RunFolderError, SettingError
from mbls.runtime.ranks import print_once

__all__ = [
    "check_contract",
    "check_fit",
    "check_launcher",
    "check_trainer",
    "refuse_other_data",
    "warn",
    "warn_of_changed_data",
    "warn_of_trained_patients",
]

CHECKPOINTS = ("best", "last", "previous")  # tags of results on the run's own data
FEW_EPOCHS = 10  # not worth a warning on a CPU


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """Reject trainer settings that runs do not support.

    Raises:
        ChoiceError: A setting is not supported; the message says what to do instead.
    """
    if trainer.get("enable_checkpointing") is False:
        raise ChoiceError(
            "trainer.enable_checkpointing must not be false: runs are tested and resumed from "
            "checkpoints. Leave it out."
        )
    if trainer.get("overfit_batches"):
        raise ChoiceError(
            "trainer.overfit_batches must be 0: it would replace the sampler, which draws samples "
            "by seed and epoch. To train on few cases, list them in a split (SPLIT=file.json, "
            "--split); to train for few steps, use --trainer.limit_train_batches."
        )
    if trainer.get("limit_train_batches") == 0:
        raise ChoiceError(
            "trainer.limit_train_batches must be > 0, got 0: nothing would be trained. To test "
            "a checkpoint, use make evaluate RUN=FOLDER (mbls evaluate FOLDER)."
        )
    if trainer.get("barebones"):
        raise ChoiceError(
            "trainer.barebones must be false: it disables checkpoints and logging, which runs "
            "need. Leave it out."
        )
    accelerator = str(trainer.get("accelerator")).lower()
    has_mps = accelerator == "gpu" and torch.backends.mps.is_available()
    if accelerator in ("gpu", "cuda") and not (torch.cuda.is_available() or has_mps):
        reason = "built without CUDA" if torch.version.cuda is None else "which detects no GPU"
        raise ChoiceError(
            f"accelerator={accelerator} needs a GPU that torch can use, found torch "
            f"{torch.__version__}, {reason}. Use ACCELERATOR=cpu (--accelerator cpu), or a "
            "machine with a GPU."
        )


def check_contract(data: LightningDataModule) -> None:
    """Check that a datamodule implements the contract of mbls.data.DataModule.

    Raises:
        SettingError: Properties or methods are missing; the message lists them.
    """
    if missing := missing_from(data):
        raise SettingError(
            f"{type(data).__name__} is not a datamodule of mbls: it lacks {', '.join(missing)}. "
            "Derive it from datamodules.SegmentationDataModule, or implement "
            "mbls.data.DataModule."
        )


def check_launcher(trainer: Trainer) -> None:
    """Reject strategies that fork or spawn their ranks, such as ``ddp_spawn``.

    The trained weights would be lost with the child processes, and the test would use untrained
    ones.

    Raises:
        ChoiceError: The strategy forks or spawns its ranks.
    """
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise ChoiceError(
            "trainer.strategy must start ranks as separate programs, got one that forks or spawns "
            "them: the trained weights would be lost with them. Leave it out, or use ddp "
            "(--trainer.strategy ddp)."
        )


def check_fit(trainer: Trainer, model: SegmentationModule, data: DataModule) -> None:
    """Check batch size, batch norm and patch size before the ranks start.

    Raises:
        ChoiceError: The batch cannot be divided among ranks, or batch norm cannot be synchronized.
        SettingError: The network cannot be trained on patches of this size.
    """
    ranks, batch = trainer.world_size, data.batch_size
    if batch % ranks:
        raise ChoiceError(
            f"batch_size counts the samples of all {ranks} ranks and must be a multiple of "
            f"{ranks}, got {batch}. Use BATCH_SIZE={-(-batch // ranks) * ranks} (--batch-size), "
            "or other DEVICES and NODES."
        )
    synced = getattr(trainer.strategy, "_layer_sync", None) is not None
    if synced and ranks > 1 and trainer.strategy.root_device.type == "cpu":
        raise ChoiceError(
            "trainer.sync_batchnorm must be false on the CPU: torch synchronizes batch norm only "
            "on GPUs. Leave it out (make: SYNC_BATCHNORM), or use a network without batch norm."
        )
    if data.patch_size is not None:
        shape = (max(batch // ranks, 1), data.in_channels, *data.patch_size)
        check_patch(model.network, shape, divisor=model.divisor)


def warn(
    trainer: Trainer, model: SegmentationModule, config: Mapping[str, Any], *, fit: bool
) -> None:
    """Warn about settings that are allowed but rarely intended."""
    flip = below(config, "data", "init_args", "augmentation", "flip")
    if (axes := model.mirror) and not flip:
        along = f"{'the axes' if len(axes) > 1 else 'axis'} {', '.join(map(str, axes))}"
        print_once(
            f"Warning: logits are averaged over mirrorings along {along}, but this network was "
            f"trained without flips (data.init_args.augmentation.flip is {flip}): expect a lower "
            "Dice. Leave out MIRROR (--mirror), or train with flips."
        )
    epochs, cpu = trainer.max_epochs or 0, trainer.strategy.root_device.type == "cpu"
    paper = fit and below(config, "card", "preset") == "paper"
    if paper and cpu and epochs > FEW_EPOCHS and not below(config, "run", "resume"):
        print_once(
            f"Warning: no GPU is used, and PRESET=paper trains for {epochs} epochs, which may take "
            "days on a CPU. For a short run use EPOCHS=2 PRESET=quick (--epochs, --preset)."
        )
    if below(config, "trainer", "precision") == "16-mixed" and trainer.precision == "bf16-mixed":
        print_once(
            "Warning: 16-mixed needs a GPU; on the CPU bf16-mixed is used instead. "
            "For full precision use PRECISION=32-true (--precision)."
        )


def refuse_other_data(run: Path, tag: str, data: DataModule, config: dict[str, Any]) -> None:
    """Refuse to overwrite test results with those of other data.

    Args:
        run: The run folder.
        tag: Name of the results' folder.
        data: The tested datamodule.
        config: The configuration of ``data``; the run's own data may be tested again.

    Raises:
        RunFolderError: The tag is used, or reserved, for results of other data.
    """
    ours, own = data.fingerprint, _data_of(run)
    if own is None or _same(own, config.get("init_args") or {}):
        return
    results, card = run / "test" / tag / "metrics.json", run / "run.json"
    if results.is_file():
        theirs = below(_read_json(results), "meta", "data_fingerprint")
    else:
        theirs = below(_read_json(card), "data_fingerprint") if tag in CHECKPOINTS else None
    if theirs not in (None, ours):
        raise RunFolderError(
            f"{results.parent} is for results of other data (data_fingerprint "
            f"{str(theirs)[:12]}, not {ours[:12]}) and is not overwritten. Choose another name "
            "for these results: TAG=NAME (--tag)."
        )


def warn_of_changed_data(run: Path, data: DataModule, config: dict[str, Any]) -> None:
    """Warn where a run's own data are not those that it was trained on, as a new phantom's."""
    theirs = below(_read_json(run / "run.json"), "data_fingerprint")
    if theirs in (None, data.fingerprint) or not _same(
        _data_of(run) or {}, config.get("init_args") or {}
    ):
        return  # other data, if any, were asked for
    print_once(
        f"Warning: the data have changed since {run} was trained (data_fingerprint "
        f"{data.fingerprint[:12]}, was {str(theirs)[:12]}): its numbers are of both. Start a new "
        "run for numbers of these."
    )


def warn_of_trained_patients(run: Path, data: DataModule, config: dict[str, Any]) -> None:
    """Warn if another split contains test patients that the run was trained on."""
    own, given = _data_of(run) or {}, config.get("init_args") or {}
    trained = below(_read_json(run / "run.json"), "trained_on")
    if not trained or str(own.get("root")) != str(given.get("root")):
        return  # patients of another site may have the same names
    if seen := sorted(set(trained) & set(data.patients("test"))):
        print_once(
            f"Warning: this run was trained or validated on {len(seen)} of the test patients "
            f"({', '.join(seen[:3])}{', ...' if len(seen) > 3 else ''}): the results are not a "
            "valid test. Use a split whose test patients the run has not seen."
        )


def _data_of(run: Path) -> dict[str, Any] | None:
    """Return the arguments of a run's datamodule, or None without a config.yaml."""
    file = run / "config.yaml"
    return below(read_run_config(file), "data", "init_args") if file.is_file() else None


def _same(own: dict[str, Any], given: dict[str, Any]) -> bool:
    """Return True if two data configurations agree in all settings that affect a test."""
    return all(
        _equal(own[name], given[name])
        for name in own.keys() & given.keys()
        if name == "root" or not is_below(f"data.init_args.{name}", RUNTIME_ONLY)
    )


def _equal(own: Any, given: Any) -> bool:
    """Return True if two settings are equal, in any order and as far as both state them."""
    if isinstance(own, dict) and isinstance(given, dict):
        return all(_equal(own[name], given[name]) for name in own.keys() & given.keys())
    return str(own) == str(given)


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):  # missing or incomplete
        return None
