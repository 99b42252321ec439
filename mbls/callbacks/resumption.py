"""A resumed run continues as if it had not been stopped."""

import warnings
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mbls.data import datamodule_of
from mbls.runtime.errors import CheckpointError

__all__ = ["Resumption", "next_batch"]


class Resumption(Callback):
    """Make what follows a checkpoint the same as without a stop, where Lightning would not.

    Lightning takes the epoch in which a run is resumed for a new one: it does not step schedulers
    that look at a metric (``ReduceLROnPlateau``) at its end, and under ``max_steps`` it counts one
    step too many where the checkpoint lies between two epochs.
    """

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Give a datamodule that can start within an epoch the batch where training resumes.

        Raises:
            CheckpointError: More epochs have been trained than are wanted.
        """
        data = datamodule_of(trainer)
        done, wanted = next_batch(checkpoint)[0], trainer.max_epochs
        if trainer.state.fn == "fit" and wanted is not None and -1 != wanted < done:
            raise CheckpointError(
                f"max_epochs must be at least the checkpoint's {done} epochs, got {wanted}: give "
                f"EPOCHS={done} or more (--epochs), or start a new run."
            )
        if trainer.state.fn == "fit" and data is not None:
            data.start = next_batch(checkpoint)
            warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Between two epochs, begin the next as any other."""
        epoch = trainer.fit_loop.epoch_loop
        if epoch.batch_progress.current.ready == 0:
            epoch.restarting = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the epoch as any other: its validation was run by this process."""
        trainer.fit_loop._restarting = False  # the setter keeps True under max_steps


def next_batch(checkpoint: dict[str, Any]) -> tuple[int, int]:
    """Return the ``(epoch, batch)`` that follows the state in a checkpoint."""
    progress = checkpoint["loops"]["fit_loop"]
    epochs = progress["epoch_progress"]["current"]
    batches = progress["epoch_loop.batch_progress"]["current"]
    within = epochs["started"] > epochs["processed"]  # an epoch has begun and not ended
    return epochs["processed"], batches["processed"] if within else 0
