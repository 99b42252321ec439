"""What is refused or warned of before a run starts: settings that no run can have."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from mbls.config.choices import below, read_yaml
from mbls.config.identity import RUNTIME_ONLY, is_below
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
    "warn_of_trained_patients",
]

CHECKPOINTS = ("best", "last", "previous")  # tags that are the run's own
FEW_EPOCHS = 10  # which need no warning


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """Refuse settings of the trainer that no run here can have.

    Raises:
        ChoiceError: With the setting, and what to do instead.
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
    accelerator = str(trainer.get("accelerator")).lower()
    has_mps = accelerator == "gpu" and torch.backends.mps.is_available()
    if accelerator in ("gpu", "cuda") and not (torch.cuda.is_available() or has_mps):
        reason = "built without CUDA" if torch.version.cuda is None else "which finds none"
        raise ChoiceError(
            f"accelerator={accelerator} needs a GPU that torch can use, found torch "
            f"{torch.__version__}, {reason}. Take ACCELERATOR=cpu (--accelerator cpu), or a "
            "machine with a GPU."
        )


def check_contract(data: LightningDataModule) -> None:
    """Refuse data that lack what the rest of a run needs.

    Raises:
        SettingError: With the properties that are missing.
    """
    if missing := missing_from(data):
        raise SettingError(
            f"{type(data).__name__} is no datamodule for mbls: it lacks {', '.join(missing)}. "
            "Derive it from datamodules.SegmentationDataModule, or keep the contract of "
            "mbls.data.DataModule."
        )


def check_launcher(trainer: Trainer) -> None:
    """Refuse ranks that are no programs of their own, as with ``ddp_spawn``.

    The trained state would stay in them, and the test after it be of untrained weights.

    Raises:
        ChoiceError: The strategy forks or spawns its ranks.
    """
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise ChoiceError(
            "trainer.strategy must start ranks as programs of their own, got one that forks or "
            "spawns them: the trained weights would be lost with them. Leave it out, or take ddp "
            "(--trainer.strategy ddp)."
        )


def check_fit(trainer: Trainer, model: SegmentationModule, data: DataModule) -> None:
    """Refuse a batch that ranks cannot share or the network cannot train on, before there are any.

    Raises:
        ChoiceError: The batch cannot be divided among ranks, or batch norm not synchronized.
        SettingError: The network cannot be trained on patches of this size.
    """
    ranks, batch = trainer.world_size, data.batch_size
    if batch % ranks:
        raise ChoiceError(
            f"batch_size counts the samples over all {ranks} ranks and must be a multiple of "
            f"{ranks}, got {batch}. Take BATCH_SIZE={-(-batch // ranks) * ranks} (--batch-size), "
            "or other DEVICES and NODES."
        )
    synced = getattr(trainer.strategy, "_layer_sync", None) is not None
    if synced and ranks > 1 and trainer.strategy.root_device.type == "cpu":
        raise ChoiceError(
            "trainer.sync_batchnorm must be false on the CPU: torch synchronizes batch norm on "
            "GPUs alone. Leave it out (make: SYNC_BATCHNORM), or take a network without batch norm."
        )
    if data.patch_size is not None:
        shape = (max(batch // ranks, 1), data.in_channels, *data.patch_size)
        check_patch(model.network, shape, divisor=model.divisor)


def warn(
    trainer: Trainer, model: SegmentationModule, config: Mapping[str, Any], *, fit: bool
) -> None:
    """Warn of what is allowed and most often not meant."""
    flip = below(config, "data", "init_args", "augmentation", "flip")
    if (axes := model.mirror) and not flip:
        along = f"{'the axes' if len(axes) > 1 else 'axis'} {', '.join(map(str, axes))}"
        print_once(
            f"Warning: logits are averaged over mirrorings along {along}, of which this "
            f"network never saw one (data.init_args.augmentation.flip is {flip}): expect a lower "
            "Dice. Leave out MIRROR (--mirror), or train with flips."
        )
    epochs, cpu = trainer.max_epochs or 0, trainer.strategy.root_device.type == "cpu"
    paper = fit and below(config, "card", "preset") == "paper"
    if paper and cpu and epochs > FEW_EPOCHS and not below(config, "run", "resume"):
        print_once(
            f"Warning: no GPU is used, and PRESET=paper trains for {epochs} epochs: on a CPU "
            "that may take days. A short run is EPOCHS=2 PRESET=quick (--epochs, --preset)."
        )
    if below(config, "trainer", "precision") == "16-mixed" and trainer.precision == "bf16-mixed":
        print_once(
            "Warning: 16-mixed is for GPUs. On the CPU bf16-mixed runs in its place; "
            "PRECISION=32-true (--precision) is full precision."
        )


def refuse_other_data(run: Path, tag: str, data: DataModule, config: dict[str, Any]) -> None:
    """Refuse to overwrite the results of a run's test by those of other data.

    Args:
        run: The run folder.
        tag: Name of the results' folder.
        data: What is tested.
        config: The configuration of ``data``; what the run itself states may be tested again.

    Raises:
        RunFolderError: The results that are there, or those a run has by this name, are of others.
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
            f"{results.parent} is for the results of other data than these (data_fingerprint "
            f"{str(theirs)[:12]}, not {ours[:12]}), which are not overwritten. Give these a name "
            "of their own: TAG=NAME (--tag)."
        )


def warn_of_trained_patients(run: Path, data: DataModule, config: dict[str, Any]) -> None:
    """Warn of test patients that the run was trained on, as another split may name."""
    own, given = _data_of(run) or {}, config.get("init_args") or {}
    trained = below(_read_json(run / "run.json"), "trained_on")
    if not trained or str(own.get("root")) != str(given.get("root")):
        return  # patients of another site may have the same names
    if seen := sorted(set(trained) & set(data.patients("test"))):
        print_once(
            f"Warning: {len(seen)} of the patients that are tested were trained on or validated "
            f"on by this run ({', '.join(seen[:3])}{', ...' if len(seen) > 3 else ''}): the "
            "results are no test. Take a split whose test patients the run has not seen."
        )


def _data_of(run: Path) -> dict[str, Any] | None:
    """Return the arguments of a run's datamodule, None where there is no run."""
    file = run / "config.yaml"
    return below(read_yaml(file), "data", "init_args") if file.is_file() else None


def _same(own: dict[str, Any], given: dict[str, Any]) -> bool:
    """Return True if two configurations of the data differ in nothing that changes a test."""
    return all(
        str(own[name]) == str(given[name])
        for name in own.keys() & given.keys()
        if name == "root" or not is_below(f"data.init_args.{name}", RUNTIME_ONLY)
    )


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):  # none, or half of one
        return None
