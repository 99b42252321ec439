"""Log reliability diagrams of the validation to trackers."""

from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure

from mbls.callbacks.run_folder import folder_callback
from mbls.data import datamodule_of
from mbls.loggers.trackers import FigureLogger
from mbls.metrics.bins import CalibrationBins
from mbls.module import SegmentationModule
from mbls.plots import reliability_figure
from mbls.runtime.rank_zero import on_rank_zero

__all__ = ["Diagrams"]


class Diagrams(Callback):
    """Log the validation's reliability diagram to each tracker that accepts figures.

    Args:
        every_n_epochs: Interval in epochs; 0 disables the diagrams.
    """

    def __init__(self, *, every_n_epochs: int = 0) -> None:
        if every_n_epochs < 0:
            raise ValueError(f"every_n_epochs must be >= 0, got {every_n_epochs}.")
        self.every_n_epochs = every_n_epochs

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw before the module resets its histogram; all ranks must sync theirs."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, FigureLogger)]
        if trainer.state.fn != "fit" or trainer.sanity_checking or not loggers:
            return
        if not self.every_n_epochs or (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        assert isinstance(pl_module, SegmentationModule)
        bins = pl_module.val_histogram.compute()
        on_rank_zero(trainer, lambda: self._show(trainer, pl_module, bins, loggers))

    def _show(
        self,
        trainer: Trainer,
        pl_module: SegmentationModule,
        bins: CalibrationBins,
        loggers: Sequence[FigureLogger],
    ) -> None:
        data, run = datamodule_of(trainer), folder_callback(trainer)
        meta = {
            "dataset": run.dataset,
            "network": run.network,
            "loss": run.loss,
            "seed": run.seed,
            "origin": "real" if data is None else data.origin,
            "class_names": list(pl_module.class_keys if data is None else data.class_names),
        }
        figure: Figure = reliability_figure(bins, meta=meta, n_bins=pl_module.n_bins)
        for logger in loggers:
            logger.log_figure("val/reliability", figure, trainer.global_step - 1)
