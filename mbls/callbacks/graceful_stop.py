"""A signal sets a flag; the run ends at a batch's end, with a checkpoint to resume from."""

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
BATCH_SYSTEM = (signal.SIGTERM, signal.SIGUSR1)  # sent by Slurm, some of them twice


class GracefulStop(Callback):
    """Turn Ctrl-C, SIGTERM and SIGUSR1 into an orderly stop: finish the batch, save, exit.

    With several ranks it is the batch after, so that no step waits for an answer, and where
    gradients are accumulated, the last batch of a step. A validation that
    is due or running is finished first, and its checkpoints are written. Ctrl-C ends the process
    at once where a signal came before, even while it waits for other ranks. The exit status is
    128 plus the signal's number, as a shell has it: 130, 143 or 138.
    """

    def __init__(self) -> None:
        self._signal = 0
        self._vote: Vote | None = None  # among several ranks
        self._speaker = -1  # rank 0; its data workers inherit the handler
        self._handlers: dict[int, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals before data workers start: a terminal, or Slurm, sends them too."""
        self._speaker = os.getpid() if trainer.is_global_zero else -1
        self._vote = Vote() if trainer.world_size > 1 else None
        self._take(signal.SIGINT, signal.SIGUSR1)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over SIGTERM, which Lightning has taken since the fit started."""
        self._take(signal.SIGTERM)

    on_train_start = on_sanity_check_start  # where there is no sanity check

    def _take(self, *numbers: signal.Signals) -> None:
        for number in numbers:
            if number not in self._handlers:
                self._handlers[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._handlers:  # restored; Lightning's teardown set it again
            signal.default_int_handler(number, frame)
        self._signal = number
        repeated = number in BATCH_SYSTEM  # what kills at last is SIGKILL
        for each in SIGNALS:  # python's handlers wait for a blocking call, the system's do not
            again = repeated and each in BATCH_SYSTEM
            signal.signal(each, signal.SIG_IGN if again else signal.SIG_DFL)
        if os.getpid() == self._speaker:
            cursor = b"\x1b[?25h" if os.isatty(2) else b""  # a progress bar hid it
            when = "the next batch" if self._vote else "this batch"
            what = "Ctrl-C" if repeated else "a second signal"
            os.write(2, cursor + f"\nStopping after {when}; {what} ends at once.\n".encode())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after a step's last batch if any rank got a signal and no validation follows."""
        every = trainer.val_check_batch
        validates = every is not None and (batch_idx + 1) % every == 0
        ends = batch_idx + 1 == trainer.num_training_batches or trainer.is_last_batch
        if validates or ends or trainer.fit_loop._should_accumulate():
            return  # no checkpoint has the gradients of half a step
        if number := self._vote.before(self._signal) if self._vote else self._signal:
            self._stop(trainer, number)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop between two epochs, when the first is over."""
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
        epoch = trainer.current_epoch + 1  # of the next one, where one is over
        if trainer.max_epochs not in (None, -1):
            epoch = min(epoch, trainer.max_epochs)
        raise Interrupted(
            f"Stopped in epoch {epoch}, step {trainer.global_step}. "
            + (f"{last} holds the state. Resume with: make train RUN={quote(str(folder))} RESUME=1 "
               f"(or mbls train --run {quote(str(folder))} --resume)"
               if last.is_file() else "There is no checkpoint to resume from."),
            status=128 + number,
        )  # fmt: skip

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


class Vote:
    """The largest number that a rank brings, known to all ranks; each asks as often as the others.

    The ranks talk on the host, so that no device is waited for.
    """

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo")
        self._pending: tuple[dist.Work, Tensor] | None = None

    def before(self, number: int) -> int:
        """Return the answer to the question before this one, which is there without waiting."""
        previous = self._pending
        answer = torch.tensor([number])
        work = dist.all_reduce(answer, dist.ReduceOp.MAX, group=self._group, async_op=True)
        self._pending = (work, answer)
        return 0 if previous is None else _answer(*previous)

    def now(self, number: int) -> int:
        """Return the answer to this question and to the one before."""
        earlier = self.before(number)
        assert self._pending is not None
        pending, self._pending = self._pending, None
        return max(earlier, _answer(*pending))


def _answer(work: dist.Work, answer: Tensor) -> int:
    work.wait()
    return int(answer)
