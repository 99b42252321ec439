"""The results of a test: files below ``test/<tag>/`` of the run folder, and a table on screen."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console

from mbls.callbacks.run_folder import folder_callback
from mbls.metrics import write_results
from mbls.module import SegmentationModule
from mbls.report import results_table

__all__ = ["TestResults"]


class TestResults(Callback):
    """Write ``metrics.json``, ``cases.csv``, ``bins.npz`` and the reliability diagram.

    The integer states are summed over ranks once; rank 0 writes and prints.

    Args:
        show: Whether to print the table.
    """

    __test__ = False  # not a test case, whatever its name

    def __init__(self, *, show: bool = True) -> None:
        self.show = show

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write, then forget the states."""
        assert isinstance(pl_module, SegmentationModule)
        histogram, dice = pl_module.test_histogram, pl_module.test_dice
        data, run = trainer.datamodule, folder_callback(trainer)  # type: ignore[attr-defined]
        with histogram.sync_context(), dice.sync_context():
            if trainer.is_global_zero:
                meta = self._meta(trainer, pl_module)
                folder = run.path / "test" / run.tag
                self._metrics = write_results(
                    folder, histogram, dice,
                    cases=data.cases("test"), patients=data.patients("test"), meta=meta,
                )  # fmt: skip
        histogram.reset()
        dice.reset()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print below the progress bar, when it is gone."""
        if self.show and trainer.is_global_zero:
            run = folder_callback(trainer)
            console = Console()
            console.print(results_table(self._metrics))
            console.print(f"Run folder: {run.path}", soft_wrap=True)
            console.print(f"Results:    {run.path / 'test' / run.tag}", soft_wrap=True)

    def _meta(self, trainer: Trainer, pl_module: SegmentationModule) -> dict[str, Any]:
        data, run = trainer.datamodule, folder_callback(trainer)  # type: ignore[attr-defined]
        return {
            "dataset": run.dataset,
            "network": run.network,
            "loss": run.loss,
            "seed": run.seed,
            "origin": data.origin,
            "data_fingerprint": data.fingerprint,
            "class_names": list(data.class_names),
            "class_keys": list(pl_module.class_keys),
            "tag": run.tag,
            "grid": "preprocessed",
        }
