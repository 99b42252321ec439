"""The progress bar: lightning's, without a wait for the device at every step."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from torch import Tensor

__all__ = ["ProgressBar"]


class ProgressBar(RichProgressBar):
    """Show the loss, and what is logged with ``prog_bar``, read once a logging interval.

    Args:
        refresh_rate: How often a second the bar may be drawn; each time costs milliseconds.
    """

    _shown: dict[str, Any] | None = None
    _loss: Tensor | None = None

    def __init__(self, refresh_rate: int = 4) -> None:
        super().__init__(refresh_rate=refresh_rate)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the step's loss, which stays on the device."""
        self._loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the values beside the bar, those of the last look between two looks."""
        interval = max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        between = trainer.training and (trainer.fit_loop.batch_idx + 1) % interval != 0
        if self._shown is None or not between:
            values = dict(super().get_metrics(trainer, pl_module))
            loss = {} if self._loss is None else {"loss": float(self._loss)}
            self._shown = values | loss
        return self._shown
