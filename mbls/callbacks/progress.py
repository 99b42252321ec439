"""The progress bar: lightning's, without a wait for the device at every step."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

__all__ = ["ProgressBar"]


class ProgressBar(RichProgressBar):
    """Read the shown values from the device once a logging interval."""

    _shown: dict[str, Any] | None = None

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the values beside the bar, those of the last look between two looks."""
        interval = max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        between = trainer.training and (trainer.fit_loop.batch_idx + 1) % interval != 0
        if self._shown is None or not between:
            self._shown = dict(super().get_metrics(trainer, pl_module))
        return self._shown
