"""A signal sets a flag; the run ends at the next batch, with a checkpoint to go on from."""

import os
import signal
from shlex import quote
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

    A validation that is due or running is finished first, and its checkpoints are written. A second
    signal ends the process at once, even where it waits for other ranks.
    """

    def __init__(self) -> None:
        self._flag = False
        self._speaker = -1  # rank 0; its data workers inherit the handler
        self._interval = 1
        self._handlers: dict[int, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over Ctrl-C before data workers start: a terminal sends it to them too."""
        self._speaker = os.getpid() if trainer.is_global_zero else -1
        # with several ranks the question costs a message, so it is asked once a logging interval
        self._interval = 1 if trainer.world_size == 1 else max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        self._take(signal.SIGINT)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over SIGTERM, which lightning has taken since the fit started."""
        self._take(signal.SIGTERM)

    on_train_start = on_sanity_check_start  # where there is no sanity check

    def _take(self, number: signal.Signals) -> None:
        if number not in self._handlers:
            self._handlers[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._handlers:  # given back; lightning put it in again when it tore down
            signal.default_int_handler(number, frame)
        self._flag = True
        for each in SIGNALS:  # python's handlers wait for a blocking call, the system's do not
            signal.signal(each, signal.SIG_DFL)
        if os.getpid() == self._speaker:
            cursor = b"\x1b[?25h" if os.isatty(2) else b""  # a progress bar hid it
            when = f"within {self._interval} batches" if self._interval > 1 else "after this batch"
            os.write(2, cursor + f"\nStopping {when}; a second signal ends at once.\n".encode())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after this batch if any rank was told to, unless a validation follows it."""
        every = trainer.val_check_batch
        validates = every is not None and (batch_idx + 1) % every == 0
        ends = batch_idx + 1 == trainer.num_training_batches or trainer.is_last_batch
        asked = (batch_idx + 1) % self._interval == 0 and not validates and not ends
        if asked and self._told(trainer):
            self._stop(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop between two epochs, when the first is over."""
        if self._told(trainer):
            self._stop(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before the test, and give the signals back."""
        if self._told(trainer):
            self._stop(trainer)
        self._restore()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give the signals back."""
        self._restore()

    def _told(self, trainer: Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self._flag, all=False)

    def _stop(self, trainer: Trainer) -> None:
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, Checkpoints):
                callback.save_last(trainer)
        folder = run_folder(trainer)
        last = folder / "checkpoints" / "last.ckpt"
        raise Interrupted(
            f"Stopped in epoch {trainer.current_epoch}, step {trainer.global_step}. "
            + (f"{last} holds the state. Go on with: make train RUN={quote(str(folder))} RESUME=1 "
               f"(or mbls train --run {quote(str(folder))} --resume)"
               if last.is_file() else "There is no checkpoint to go on from.")
        )  # fmt: skip

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
