"""Progress of a run: a bar in a terminal, one line per epoch elsewhere."""

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, RichProgressBar, Timer
from rich.console import Console
from torch import Tensor

from mbls.data import datamodule_of
from mbls.runtime.clock import clock, duration, stamped
from mbls.runtime.ranks import print_once

__all__ = ["EpochLines", "ProgressBar", "log_stage", "shows_bars"]

SHOWN = {"train/loss": "train loss", "val/dice": "val Dice", "val/ece": "val ECE"}


def shows_bars() -> bool:
    """Return True if the output is a terminal or a notebook that can draw a progress bar."""
    console = Console()
    return console.is_jupyter or (console.is_terminal and not console.is_dumb_terminal)


def log_stage(text: str) -> None:
    """Print the current stage of a run, unless a progress bar shows it."""
    if not shows_bars():
        print_once(stamped(text))


class EpochLines(Callback):
    """Print one line per epoch without a progress bar: in a file, a batch job or a pipe.

    A line has the number of the epoch (from 1), its loss, Dice and ECE, the mean time per epoch
    including validation, and the expected end. With a progress bar, only the first epoch's line is
    printed, for its estimate of the end.
    """

    def __init__(self) -> None:
        self._printed = False  # a line, above a progress bar
        self._begin = 0.0  # on the monotonic clock
        self._from = self._done = 0.0  # epochs; a run may resume within one
        self._first_step = 0
        self._seconds = 0.0  # from the start to the end of the last epoch
        self._over = self._validated = False  # an epoch has ended, was validated, since the line

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        batches: int = trainer.fit_loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]
        self._begin, self._first_step = time.monotonic(), trainer.global_step
        self._from = self._done = trainer.current_epoch + batches / trainer.num_training_batches
        self._over = self._validated = False
        if not self._bar_is_shown(trainer):
            first = f"epoch {trainer.current_epoch + 1}{_of(trainer)}"
            print_once(stamped(f"training from {first}, {trainer.num_training_batches} steps each"))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the epoch has validation values."""
        self._validated = trainer.state.fn == "fit" and not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the time; the epoch's values are not logged yet."""
        self._seconds = time.monotonic() - self._begin
        self._done, self._over = int(self._done) + 1, True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of the previous epoch."""
        left = self.seconds_left(trainer)
        self._print(trainer, "" if left is None or left < 1 else f"; {self._end(trainer, left)}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of the last epoch."""
        self._print(trainer, "")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print that the test starts."""
        self._print_evaluation(trainer, "testing")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print that the prediction starts."""
        self._print_evaluation(trainer, "predicting with")

    def seconds_left(self, trainer: Trainer) -> float | None:
        """Return the estimated seconds until training ends, or None if unknown.

        The estimate uses the mean time of the epochs that this process has trained.
        """
        done = self._done - self._from
        if done <= 0:
            return None
        left = []
        if trainer.max_epochs not in (None, -1):
            left.append(trainer.max_epochs - self._done)
        if trainer.max_steps != -1:
            steps = (trainer.global_step - self._first_step) / done  # per epoch
            left.append((trainer.max_steps - trainer.global_step) / max(steps, 1e-9))
        seconds = [max(min(left), 0.0) * self._seconds / done] if left else []
        timers = (c for c in _callbacks(trainer) if isinstance(c, Timer))
        seconds += [rest for timer in timers if (rest := timer.time_remaining()) is not None]
        return min(seconds, default=None)

    def _end(self, trainer: Trainer, left: float) -> str:
        early = any(isinstance(c, EarlyStopping) for c in _callbacks(trainer))
        return f"ends about {clock(left)}" + " or earlier" * early

    def _print(self, trainer: Trainer, end: str) -> None:
        if not self._over:
            return
        logged = trainer.callback_metrics  # on all ranks: Lightning may run a collective here
        values = [
            f"{name} {float(logged[key]):.4f}"
            for key, name in SHOWN.items()
            if key in logged and (self._validated or not key.startswith("val/"))
        ]
        data = datamodule_of(trainer)
        is_phantom = data is not None and data.origin == "phantom"
        phantom = " PHANTOM" * (is_phantom and bool(values))
        seconds = self._seconds / (self._done - self._from)
        each = duration(seconds) if seconds >= 60 else f"{seconds:.2g} s"
        numbers = f": {', '.join(values)}{phantom}" if values else ""
        self._over = self._validated = False
        if not (self._printed and self._bar_is_shown(trainer)):
            epoch = f"epoch {self._done:.0f}{_of(trainer)}"
            print_once(stamped(f"{epoch}{numbers}; {each} an epoch{end}"))
        self._printed = True

    def _print_evaluation(self, trainer: Trainer, what: str) -> None:
        if not self._bar_is_shown(trainer):
            path = trainer.ckpt_path
            print_once(stamped(f"{what} {Path(path).name if path else 'the weights in memory'}"))

    def _bar_is_shown(self, trainer: Trainer) -> bool:
        bar = trainer.progress_bar_callback
        return bar is not None and getattr(bar, "is_enabled", True) and shows_bars()


class ProgressBar(RichProgressBar):
    """Show the loss and ``prog_bar`` values, which are read once per logging interval.

    It is disabled if the output cannot draw a bar; :class:`EpochLines` prints there.

    Args:
        refresh_rate: Maximum number of refreshes per second; each takes milliseconds.
    """

    _shown: dict[str, Any] | None = None
    _loss: Tensor | None = None

    def __init__(self, refresh_rate: int = 4) -> None:
        super().__init__(refresh_rate=refresh_rate)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Disable the bar if it cannot be drawn."""
        super().setup(trainer, pl_module, stage)
        if not shows_bars():
            self.disable()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the step's loss on the device."""
        self._loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the values next to the bar, updated once per logging interval."""
        interval = max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        between = trainer.training and (trainer.fit_loop.batch_idx + 1) % interval != 0
        if self._shown is None or not between:
            values = dict(super().get_metrics(trainer, pl_module))
            loss = {} if self._loss is None else {"loss": float(self._loss)}
            self._shown = values | loss
        return self._shown

    def _get_train_description(self, current_epoch: int) -> str:
        """Count epochs from 1."""
        text = f"Epoch {current_epoch + 1}{_of(self.trainer)}"
        return text.ljust(len(self.validation_description))  # keeps the bars aligned


def _of(trainer: Trainer) -> str:
    """Return ``/100`` if the number of epochs is known."""
    return "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs}"


def _callbacks(trainer: Trainer) -> list[Callback]:
    found: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return found
