"""What is done with trained networks: ensembles, post-hoc calibrators, and data for their fit."""

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

import numpy as np
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from mbls.callbacks.checkpoint_search import find_checkpoint, read_checkpoint
from mbls.callbacks.run_folder import folder_callback
from mbls.data import Batch, DataModule, datamodule_of, derived_in, readers_in
from mbls.decisions.choice import Thresholds
from mbls.decisions.guarantee import Guarantee
from mbls.decisions.optimal import OptimalDice
from mbls.evaluation.scoring import TestMetrics
from mbls.module import PostHocState, SegmentationModule
from mbls.posthoc.base import Calibrator
from mbls.runtime.errors import RunFolderError, SettingError
from mbls.runtime.files import read_card, replacing, writing

__all__ = ["PostHoc", "checkpoint_of", "member_network"]

NETWORK = "network."  # prefix of a network's weights in a checkpoint


class PostHoc(Callback):
    """Average further networks, and calibrate, in a test or a prediction.

    Args:
        members: Run folders, of which the best checkpoints are taken, or checkpoints in them,
            whose networks form an ensemble with that of the tested checkpoint.
        calibrator: JSON file of a calibrator, see :mod:`mbls.posthoc`.
        keep: Folder for the probabilities and labels of each validated case, as
            ``<number>.npz``, to which a calibrator is fitted.
        images: If True, the images are kept too.
        decide: What chooses the classes, see :mod:`mbls.decisions`: JSON file of thresholds, or
            ``"optimal-dice"`` for the masks of the highest expected Dice.
        count: File for the counts of the validated cases, with the content of a test's
            ``bins.npz``.
        margins: If True, a test and ``count`` also count voxels within margins of the predicted
            structures.
        guarantee: JSON file of a guarantee, whose outer and inner masks a prediction writes.

    Raises:
        SettingError: At the start of a test: a member, the calibrator or the thresholds have seen
            a test patient, or the thresholds are of other probabilities. At the start of a
            prediction: the guarantee is of other probabilities.
    """

    def __init__(
        self,
        *,
        members: Sequence[Path] = (),
        calibrator: Path | None = None,
        keep: Path | None = None,
        images: bool = False,
        decide: str | None = None,
        count: Path | None = None,
        margins: bool = False,
        guarantee: Path | None = None,
    ) -> None:
        self.members = [Path(member) for member in members]
        self.keep, self.images, self.count = keep, images, count
        self.decide = decide
        self.margins = margins
        self.guarantee = None if guarantee is None else Path(guarantee)
        self._counts: TestMetrics | None = None
        self.predictor: str | None = None  # of the last test, validation or prediction
        self.calibrator = None if calibrator is None else Path(calibrator)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load the networks and the calibrator."""
        assert isinstance(pl_module, SegmentationModule)
        pl_module.post_hoc = PostHocState()
        if stage == "fit":
            return
        patients = self._tested(trainer, stage)
        data = datamodule_of(trainer)
        networks = [member_network(member, pl_module, data) for member in self.members]
        for member in self.members:
            card = read_card(_folder_of(member))
            _refuse_seen(f"{member} was trained or validated", card.get("trained_on"), patients)
        pl_module.post_hoc.members = [network.to(pl_module.device).eval() for network in networks]
        if self.calibrator is not None:
            calibrator = Calibrator.load(self.calibrator)
            if calibrator.card.class_names != pl_module.class_keys:
                raise SettingError(
                    f"{self.calibrator} is of the classes {', '.join(calibrator.card.class_names)}"
                    f", the network of {', '.join(pl_module.class_keys)}: fit one to this run."
                )
            _refuse_seen(f"{self.calibrator} was fitted", calibrator.card.patients, patients)
            pl_module.post_hoc.calibrator = calibrator
        if self.decide is not None:
            optimal = self.decide == OptimalDice.name
            decision = OptimalDice() if optimal else self._thresholds(pl_module, patients)
            pl_module.post_hoc.decision = decision
        pl_module.post_hoc.margins = self.margins
        if self.guarantee is not None:
            pl_module.post_hoc.guarantee = self._guarantee(pl_module)
        if self.keep is not None:
            pl_module.post_hoc.on_validated = self._save
        if self.count is not None:
            if data is None or trainer.world_size > 1:
                raise SettingError(
                    "post_hoc.count needs a datamodule and one process, which sees all cases: "
                    f"trainer.devices 1, got {trainer.world_size} processes."
                )
            cases = len(data.cases("val"))
            self._counts = TestMetrics(
                pl_module.num_classes, cases, unions=pl_module.unions, margins=self.margins,
                readers=readers_in(data, "val"),
            )  # fmt: skip
            pl_module.post_hoc.on_counted = self._add

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the module as it was trained."""
        assert isinstance(pl_module, SegmentationModule)
        pl_module.post_hoc = PostHocState()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the networks to the module's device, and note whose predictions are tested.

        Device and checkpoint are known after :meth:`setup`.
        """
        assert isinstance(pl_module, SegmentationModule)
        if trainer.state.fn == "fit":
            return
        state = pl_module.post_hoc
        for network in state.members:
            network.to(pl_module.device)
        weights = [network.state_dict() for network in (pl_module.network, *state.members)]
        self.predictor = state.predictor = hash_of(weights)
        fitted = None if self.calibrator is None else hash_of_file(self.calibrator)
        settings = (pl_module.mirror, pl_module.inference, str(trainer.precision))
        everything = repr((state.predictor, fitted, settings)).encode()
        state.probabilities = hashlib.sha256(everything).hexdigest()[:16]
        calibrator = state.calibrator
        fitted_to = None if calibrator is None else calibrator.card.report.get("predictor")
        if fitted_to not in (None, pl_module.post_hoc.predictor):
            rank_zero_warn(
                f"{self.calibrator} was fitted to other weights than those of this checkpoint: fit "
                "it again with make calibrate (mbls calibrate)."
            )

        _refuse_others(f"{self.decide} was chosen", state.decision, state, "thresholds")
        _refuse_others(f"{self.guarantee} was calibrated", state.guarantee, state, "guarantee")

    on_validation_start = on_predict_start = on_test_start

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the counts of the validated cases."""
        data = datamodule_of(trainer)
        if self._counts is None or self.count is None or data is None:
            return
        assert isinstance(pl_module, SegmentationModule)
        scored = self._counts.hd95.scored
        if not bool((scored > 0).all()):
            raise SettingError(
                f"{int((scored > 0).sum())} of {len(scored)} validation cases were scored, so no "
                "counts are written: leave out trainer.limit_val_batches."
            )
        calibrator = pl_module.post_hoc.calibrator
        meta = {
            "dataset": folder_callback(trainer).dataset,
            "origin": data.origin,
            "class_names": list(data.class_names),
            "class_keys": list(pl_module.class_keys),
            "networks": 1 + len(pl_module.post_hoc.members),
            "predictor": self.predictor,
            "probabilities": pl_module.post_hoc.probabilities,
            "grid": pl_module.grid,
            **({} if calibrator is None else {"calibrator": calibrator.method}),
            **(
                {}
                if self.calibrator is None
                else {"calibrator_hash": hash_of_file(self.calibrator)}
            ),
            **derived_in(data, "val"),
        }
        run = self._counts.run(cases=data.cases("val"), patients=data.patients("val"), meta=meta)
        with writing(self.count), replacing(self.count) as file:
            run.save(file)

    def _add(self, batch: Batch, probs: Tensor) -> None:
        assert self._counts is not None
        self._counts.to(probs.device).update(probs, batch)

    def _thresholds(self, module: SegmentationModule, patients: set[str]) -> Thresholds:
        found, path = Thresholds.load(Path(str(self.decide))), self.decide
        if found.class_keys != module.class_keys:
            raise SettingError(
                f"{path} is of the classes {', '.join(found.class_keys)}, the network of "
                f"{', '.join(module.class_keys)}: choose thresholds for this run (make thresholds)."
            )
        _refuse_calibrator(path, found, module, "thresholds")
        if lacking := [name for name, value in found.values.items() if value is None]:
            raise SettingError(
                f"{path} has no threshold for {found.target} of {', '.join(lacking)}, so there is "
                "no label map: choose another TARGET (make thresholds TARGET=...)."
            )
        _refuse_seen(f"{path} was chosen", found.patients, patients)
        return found

    def _guarantee(self, module: SegmentationModule) -> Guarantee:
        found, path = Guarantee.load(Path(str(self.guarantee))), self.guarantee
        structures = (*module.class_keys[1:], *module.unions)
        if found.class_keys != module.class_keys or found.structures != structures:
            raise SettingError(
                f"{path} is of the structures {', '.join(found.structures)}, the network of "
                f"{', '.join(structures)}: calibrate one to this run (make guarantee)."
            )
        _refuse_calibrator(path, found, module, "guarantee")
        if found.grid != "native":
            raise SettingError(
                f"{path} holds on the {found.grid} grid, and predictions are on that of the files: "
                "calibrate one there, make guarantee GRID=native (--grid native)."
            )
        return found

    def _tested(self, trainer: Trainer, stage: str) -> set[str]:
        data = datamodule_of(trainer)
        return set(data.patients("test")) if stage == "test" and data is not None else set()

    def _save(self, batch: Batch, probs: Tensor) -> None:
        arrays = {"probs": probs[0], "label": batch["label"][0]}
        arrays["spacing"] = batch["spacing"][0]
        if self.images:
            arrays["image"] = batch["image"][0]
        path = Path(str(self.keep)) / f"{int(batch['index'][0])}.npz"
        with writing(path):
            files: dict[str, Any] = {name: value.cpu().numpy() for name, value in arrays.items()}
            np.savez(path, **files)


def member_network(run: Path, module: SegmentationModule, data: DataModule | None) -> nn.Module:
    """Return the network of a run with the weights of its best checkpoint, on the CPU.

    Args:
        run: The run folder, or a checkpoint in it.
        module: The module whose ensemble it joins.
        data: The data of the ensemble, for the arguments that the command line links.

    Raises:
        RunFolderError: It is not a run folder.
        CheckpointError: It has no best checkpoint.
        SettingError: It has other classes or other inputs than the module.
    """
    path, run = checkpoint_of(run), _folder_of(run)
    checkpoint = read_checkpoint(path)
    wanted = {"class_keys": list(module.class_keys), "inference": module.inference}
    for name, value in wanted.items():
        if (found := checkpoint["mbls"].get(name)) != value:
            raise SettingError(
                f"The networks of an ensemble must have the same {name}: {run} has {found}, the "
                f"first {value}."
            )
    stated = yaml.safe_load((run / "config.yaml").read_text())["model"]["network"]
    network = _built(stated, module, data)
    weights = {
        name.removeprefix(NETWORK): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(NETWORK)
    }
    network.load_state_dict(weights)
    return network


def hash_of(weights: Sequence[Mapping[str, Tensor]]) -> str:
    """Return a short hash of the weights of networks, equal for equal numbers on any device."""
    found = hashlib.sha256()
    for state in weights:
        for name, value in state.items():
            found.update(name.encode())
            found.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def hash_of_file(path: Path) -> str:
    """Return a short hash of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def checkpoint_of(member: Path) -> Path:
    """Return a member's checkpoint, the best of a run folder.

    Raises:
        RunFolderError: It is not a run folder.
        CheckpointError: It has no best checkpoint.
    """
    if not (_folder_of(member) / "config.yaml").is_file():
        raise RunFolderError(f"{member} is not a run folder: it has no config.yaml.")
    return member if member.suffix == ".ckpt" else find_checkpoint(member, "best")


def _folder_of(member: Path) -> Path:
    return member.resolve().parents[1] if member.suffix == ".ckpt" else member


def _built(
    stated: Mapping[str, Any], module: SegmentationModule, data: DataModule | None
) -> nn.Module:
    """Return the network of a configuration, which leaves out what the data decide."""
    linked = {"out_channels": module.num_classes}
    if data is not None:
        linked |= {"in_channels": data.in_channels, "spatial_dims": data.spatial_dims}
    accepted = inspect.signature(locate(stated["class_path"])).parameters  # type: ignore[arg-type]
    given = dict(stated.get("init_args") or {})
    given |= {k: v for k, v in linked.items() if k in accepted and given.get(k) is None}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "network")
    whole = {"network": {"class_path": stated["class_path"], "init_args": given}}
    network: nn.Module = parser.instantiate(parser.parse_object(whole)).network
    return network


def _refuse_seen(what: str, seen: Any, patients: set[str]) -> None:
    if both := sorted(set(seen or ()) & patients):
        raise SettingError(
            f"{what} on {len(both)} of the test patients ({', '.join(both[:3])}"
            f"{', ...' if len(both) > 3 else ''}): this would be no valid test. Use a split whose "
            "test patients it has not seen (SPLIT=FILE, --split)."
        )


def _refuse_others(what: str, found: Any, state: PostHocState, command: str) -> None:
    """Refuse what was chosen on other probabilities than those of a test or a prediction."""
    if getattr(found, "probabilities", None) not in (None, state.probabilities):
        raise SettingError(
            f"{what} on other probabilities: of other weights, another calibrator, mirroring, "
            f"window or precision. Make it again with the same settings (make {command})."
        )


def _refuse_calibrator(
    path: Any, found: Thresholds | Guarantee, module: SegmentationModule, command: str
) -> None:
    """Refuse what was chosen with another calibrator than that of a test or a prediction."""
    calibrator = module.post_hoc.calibrator
    method = None if calibrator is None else calibrator.method
    if found.calibrator != method:
        raise SettingError(
            f"{path} is of probabilities with the calibrator {found.calibrator}, not {method}: "
            f"give make {command} and this the same CALIBRATOR (--calibrator)."
        )
