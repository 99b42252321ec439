"""Make a resumed run equal to an uninterrupted one."""

import warnings
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mbls.data import datamodule_of
from mbls.runtime.errors import CheckpointError

__all__ = ["Resumption", "next_batch"]


class Resumption(Callback):
    """Correct Lightning's loop state on resume.

    After a resume, Lightning does not step ReduceLROnPlateau at the end of the first epoch, and
    under ``max_steps`` it counts one step too many if the checkpoint is between two epochs.
    """

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Set the datamodule's first batch.

        Raises:
            CheckpointError: ``max_epochs`` is smaller than the checkpoint's epoch.
        """
        data = datamodule_of(trainer)
        done, wanted = next_batch(checkpoint)[0], trainer.max_epochs
        if trainer.state.fn == "fit" and wanted is not None and -1 != wanted < done:
            raise CheckpointError(
                f"max_epochs must be >= the checkpoint's {done} epochs, got {wanted}: set "
                f"EPOCHS={done} or more (--epochs), or start a new run."
            )
        if trainer.state.fn == "fit" and data is not None:
            data.start = next_batch(checkpoint)
            warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Between two epochs, start the next one like any other."""
        epoch = trainer.fit_loop.epoch_loop
        if epoch.batch_progress.current.ready == 0:
            epoch.restarting = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the first epoch like any other."""
        trainer.fit_loop._restarting = False  # the setter would keep True under max_steps


def next_batch(checkpoint: dict[str, Any]) -> tuple[int, int]:
    """Return the ``(epoch, batch)`` that follows the state in a checkpoint."""
    progress = checkpoint["loops"]["fit_loop"]
    epochs = progress["epoch_progress"]["current"]
    batches = progress["epoch_loop.batch_progress"]["current"]
    within = epochs["started"] > epochs["processed"]  # within an epoch
    return epochs["processed"], batches["processed"] if within else 0
