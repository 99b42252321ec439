"""A signal sets a flag; the run ends at the next batch, with a checkpoint to go on from."""

import signal
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mbls.callbacks.checkpoints import Checkpoints
from mbls.callbacks.run_folder import run_folder
from mbls.errors import Interrupted

__all__ = ["GracefulStop"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class GracefulStop(Callback):
    """Turn Ctrl-C and SIGTERM into an orderly stop: finish the batch, save, say how to go on.

    A second signal ends the process at once.
    """

    def __init__(self) -> None:
        self._flag = False
        self._handlers: dict[int, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals while training."""
        for number in SIGNALS:
            self._handlers[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._flag:
            self._restore()
            raise KeyboardInterrupt
        self._flag = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after this batch if any rank was told to."""
        # with several ranks the question costs a message, so it is asked once a logging interval
        interval = 1 if trainer.world_size == 1 else max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        if (batch_idx + 1) % interval == 0:
            self._stop_if_told(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop after a validation as well."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._stop_if_told(trainer)

    def _stop_if_told(self, trainer: Trainer) -> None:
        if not trainer.strategy.reduce_boolean_decision(self._flag, all=False):
            return
        self._restore()
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, Checkpoints):
                callback.save_last(trainer)
        folder = run_folder(trainer)
        raise Interrupted(
            f"Stopped in epoch {trainer.current_epoch}, step {trainer.global_step}; "
            f"{folder}/checkpoints/last.ckpt holds the state. Go on with: "
            f"make train RUN={folder} RESUME=1"
        )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        self._restore()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give the signals back."""
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
