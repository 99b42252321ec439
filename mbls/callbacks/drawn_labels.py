"""Score a test against many labels that are drawn from a phantom's known distribution."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from mbls.callbacks.run_folder import folder_callback
from mbls.data import IGNORE_INDEX, DataModule, datamodule_of
from mbls.decisions.levels import Levels, count_levels
from mbls.module import SegmentationModule
from mbls.posthoc.base import Calibrator
from mbls.runtime.errors import SettingError
from mbls.runtime.files import replacing, writing

__all__ = ["OWN", "TRUTH", "DrawnLabels"]

TRUTH, OWN = "posterior", "raw"
"""What the levels of the true probabilities, and of the network's, are called."""


class DrawnLabels(Callback):
    """Count a test's voxels by the level of their probability, of each drawn label apart.

    Args:
        file: Where the counts are written, an npz file: :class:`mbls.decisions.levels.Levels` of
            the true probabilities, of the network's and, by their methods, of calibrated ones.
        number: How many labels are drawn of each case.
        calibrators: JSON files of calibrators of the network's probabilities.

    Raises:
        SettingError: At the start of a test: the data are no phantom, or several processes test.
    """

    def __init__(
        self, *, file: Path, number: int = 100, calibrators: Sequence[Path] | None = None
    ) -> None:
        self.file, self.number = Path(file), number
        self.calibrators = [Calibrator.load(Path(path)) for path in calibrators or ()]
        self._counts: dict[str, dict[int, Levels]] = {}  # of each case by its index

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that labels can be drawn, and start again."""
        data = datamodule_of(trainer)
        if data is None or not hasattr(data, "draw_labels") or data.origin != "phantom":
            raise SettingError(
                "Labels can be drawn of phantoms only, whose distribution is known: leave out "
                "DATA_ROOT (--data-root)."
            )
        if getattr(pl_module, "grid", None) == "native":
            raise SettingError(
                "Labels are drawn on the cache's grid: leave out --model.grid native, or for a run "
                "whose configuration has it give --model.grid preprocessed."
            )
        if trainer.world_size > 1:
            raise SettingError(
                "Drawn labels are counted by one process, which sees all cases: trainer.devices 1, "
                f"got {trainer.world_size} processes."
            )
        self._counts = {}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw labels of a case, and count them."""
        if outputs is None:
            return
        scored, probs = outputs["batch"], outputs["probs"].cpu()
        data: Any = datamodule_of(trainer)
        labels = data.draw_labels(scored["case"][0], self.number).numpy()
        known = (scored["label"][0] != IGNORE_INDEX).cpu().numpy()
        truth = scored["posterior"][0].cpu().numpy()
        for name, each in self._kinds(probs, torch.from_numpy(truth)[None]).items():
            levels = count_levels(each[0].numpy(), truth, labels, known)
            self._counts.setdefault(name, {})[int(scored["index"][0])] = levels

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the counts."""
        assert isinstance(pl_module, SegmentationModule)
        data = datamodule_of(trainer)
        if data is None or len(self._counts.get(OWN, ())) < len(data.cases("test")):
            raise SettingError(
                "Not every test case was scored, so no counts are written: leave out "
                "trainer.limit_test_batches."
            )
        arrays: dict[str, Any] = {"meta": np.array(json.dumps(self._meta(trainer, data)))}
        for name, parts in self._counts.items():
            arrays |= Levels.joined([parts[index] for index in sorted(parts)]).arrays(name)
        with writing(self.file), replacing(self.file) as file:
            np.savez_compressed(file, **arrays)

    def _kinds(self, probs: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """Return all probabilities of a case ``(1, C, *S)``, by name."""
        calibrated = {
            each.method: each.apply(probs.log(), dim=1).exp_() for each in self.calibrators
        }
        return {TRUTH: truth, OWN: probs, **calibrated}

    def _meta(self, trainer: Trainer, data: DataModule) -> dict[str, Any]:
        run = folder_callback(trainer)
        return {
            "dataset": run.dataset,
            "network": run.network,
            "loss": run.loss,
            "seed": run.seed,
            "origin": data.origin,
            "class_names": list(data.class_names),
            "cases": data.cases("test"),
            "patients": data.patients("test"),
            "number": self.number,
            "calibrators": [each.method for each in self.calibrators],
        }
