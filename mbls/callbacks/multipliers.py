"""Plot the multipliers of an adaptive loss over epochs in the run folder."""

from lightning.pytorch import Callback, LightningModule, Trainer

from mbls.callbacks.run_folder import folder_callback
from mbls.data import datamodule_of
from mbls.loggers.metrics_csv import MetricsCSV, read_rows
from mbls.plots import multipliers_figure, save_figure
from mbls.plots.multipliers import multiplier_lines
from mbls.runtime.files import writing
from mbls.runtime.rank_zero import on_rank_zero

__all__ = ["MultiplierFigure"]


class MultiplierFigure(Callback):
    """Write ``multipliers.png`` and ``.pdf`` at the end of a fit with an adaptive loss.

    They are drawn from metrics.csv, so the figure of a resumed run covers all epochs.
    """

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw on rank 0, if metrics.csv has multipliers."""
        on_rank_zero(trainer, lambda: self._draw(trainer, pl_module))

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        run, data = folder_callback(trainer), datamodule_of(trainer)
        path = run.path / "metrics.csv"
        logged = any(isinstance(logger, MetricsCSV) for logger in trainer.loggers)
        rows = read_rows(path) if logged and path.is_file() else []
        if not multiplier_lines(rows):
            return
        meta = {
            "dataset": run.dataset,
            "network": run.network,
            "loss": run.loss,
            "seed": run.seed,
            "origin": "real" if data is None else data.origin,
            "adapts_on": getattr(pl_module, "adapts_on", None),
        }
        with writing(run.path):
            save_figure(multipliers_figure(rows, meta=meta), run.path / "multipliers")
