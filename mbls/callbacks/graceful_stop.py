"""Stop a run on a signal at the end of a batch, with a checkpoint to resume from."""

import os
import signal
from shlex import quote
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from mbls.callbacks.checkpoints import Checkpoints
from mbls.callbacks.run_folder import run_folder
from mbls.runtime.errors import Interrupted

__all__ = ["GracefulStop"]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
BATCH_SYSTEM = (signal.SIGTERM, signal.SIGUSR1)  # sent by Slurm, possibly twice


class GracefulStop(Callback):
    """On Ctrl-C, SIGTERM or SIGUSR1, finish the batch, save ``last.ckpt`` and exit.

    With several ranks the next batch is finished, since no step waits for a collective; with
    gradient accumulation, the last batch of the step. A validation that is due or running is
    finished first, and its checkpoints are written. A second Ctrl-C ends the process at once, even
    while it waits for other ranks. The exit status is 128 plus the signal's number: 130, 143 or
    138.
    """

    def __init__(self) -> None:
        self._signal = 0
        self._vote: Vote | None = None  # with several ranks
        self._printing_pid = -1  # of rank 0: its data workers inherit the handler
        self._handlers: dict[int, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install handlers before data workers start, which get the signals as well."""
        self._printing_pid = os.getpid() if trainer.is_global_zero else -1
        self._vote = Vote() if trainer.world_size > 1 else None
        self._take(signal.SIGINT, signal.SIGUSR1)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handler of SIGTERM, after Lightning has installed its own."""
        self._take(signal.SIGTERM)

    on_train_start = on_sanity_check_start  # without a sanity check

    def _take(self, *numbers: signal.Signals) -> None:
        for number in numbers:
            if number not in self._handlers:
                self._handlers[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._handlers:  # restored, but Lightning's teardown installed this one again
            signal.default_int_handler(number, frame)
        self._signal = number
        repeated = number in BATCH_SYSTEM  # ignored from now on; Slurm kills with SIGKILL
        for each in SIGNALS:  # Python's handlers wait for blocking calls, the system's do not
            again = repeated and each in BATCH_SYSTEM
            signal.signal(each, signal.SIG_IGN if again else signal.SIG_DFL)
        if os.getpid() == self._printing_pid:
            cursor = b"\x1b[?25h" if os.isatty(2) else b""  # hidden by a progress bar
            when = "the next batch" if self._vote else "this batch"
            what = "Ctrl-C" if repeated else "a second signal"
            os.write(2, cursor + f"\nStopping after {when}; {what} ends at once.\n".encode())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after the last batch of a step if any rank got a signal and no validation is due."""
        every = trainer.val_check_batch
        validates = every is not None and (batch_idx + 1) % every == 0
        ends = batch_idx + 1 == trainer.num_training_batches or trainer.is_last_batch
        if validates or ends or trainer.fit_loop._should_accumulate():
            return  # accumulated gradients are not part of a checkpoint
        if number := self._vote.before(self._signal) if self._vote else self._signal:
            self._stop(trainer, number)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop between two epochs."""
        self._stop_on_signal(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before the test, and restore the handlers."""
        self._stop_on_signal(trainer)
        self._restore()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Restore the handlers."""
        self._restore()

    def _stop_on_signal(self, trainer: Trainer) -> None:
        if number := self._vote.now(self._signal) if self._vote else self._signal:
            self._stop(trainer, number)

    def _stop(self, trainer: Trainer, number: int) -> None:
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, Checkpoints) and not trainer.fast_dev_run:  # type: ignore[attr-defined]
                callback.save_last(trainer)
        folder = run_folder(trainer)
        last = folder / "checkpoints" / "last.ckpt"
        epoch = trainer.current_epoch + 1  # between epochs, the next one
        if trainer.max_epochs not in (None, -1):
            epoch = min(epoch, trainer.max_epochs)
        raise Interrupted(
            f"Stopped in epoch {epoch}, step {trainer.global_step}. "
            + (f"Saved {last}. Resume with: make train RUN={quote(str(folder))} RESUME=1 "
               f"(or mbls train --run {quote(str(folder))} --resume)"
               if last.is_file() else "There is no checkpoint to resume from."),
            status=128 + number,
        )  # fmt: skip

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


class Vote:
    """Maximum of a number over ranks; all ranks must call its methods equally often.

    It uses gloo, so no rank waits for its device.
    """

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo")
        self._pending: tuple[dist.Work, Tensor] | None = None

    def before(self, number: int) -> int:
        """Start a reduction of ``number``, and return the result of the previous one."""
        previous = self._pending
        maximum = torch.tensor([number])
        work = dist.all_reduce(maximum, dist.ReduceOp.MAX, group=self._group, async_op=True)
        self._pending = (work, maximum)
        return 0 if previous is None else _result(*previous)

    def now(self, number: int) -> int:
        """Return the maximum of the previous reduction and of ``number``."""
        earlier = self.before(number)
        assert self._pending is not None
        pending, self._pending = self._pending, None
        return max(earlier, _result(*pending))


def _result(work: dist.Work, maximum: Tensor) -> int:
    work.wait()
    return int(maximum)
