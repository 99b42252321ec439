"""Checkpoints of a run: the best, the last and the one before the last."""

import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from mbls.callbacks.checkpoint_files import PlainCheckpointIO
from mbls.callbacks.nan_guard import require_finite
from mbls.callbacks.rank_zero import on_rank_zero, share_error
from mbls.callbacks.run_folder import run_folder
from mbls.callbacks.run_logger import MetricsCSV
from mbls.errors import CheckpointError, OutputError
from mbls.files import writing

__all__ = [
    "Checkpoints",
    "find_checkpoint",
    "has_checkpoint",
    "last_checkpoint",
    "read_checkpoint",
]


class Checkpoints(Checkpoint):
    """Write ``best.ckpt`` after a validation, and ``last.ckpt`` when an epoch is over.

    An epoch is over when its validation and its logged values are written and its schedulers have
    stepped, which is when the next one begins: what the run goes on from lacks none of them.
    ``last.ckpt`` becomes ``previous.ckpt`` when its successor is complete on disk, so a crash
    while writing costs one epoch at most. Weights that are not finite are never written.

    Args:
        monitor: The logged value that chooses the best epoch.
        mode: Whether more or less of it is better.
    """

    def __init__(self, *, monitor: str = "val/dice", mode: Literal["min", "max"] = "max") -> None:
        self.monitor, self.mode = monitor, mode
        self.best_value: float | None = None
        self.best_epoch: int | None = None
        self._unsaved = False  # an epoch is over

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write and read files in the project's way, unless the user has chosen another."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = PlainCheckpointIO()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the best where it was validated; miss its value in the sanity check already."""
        if trainer.state.fn != "fit" or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if trainer.sanity_checking:
            if self.monitor.startswith("val/"):
                self._value(trainer)
            return
        require_finite(trainer)
        if self._take(trainer):
            self._save(trainer, "best")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember to save: lightning still has to log and to step the schedulers."""
        self._unsaved = not trainer.fast_dev_run  # type: ignore[attr-defined]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the state that the last epoch left."""
        if self._unsaved:
            self.save_last(trainer)

    on_train_end = on_train_epoch_start

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Between two epochs, take back that the next one is about to start."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        for counts in (progress["current"], progress["total"]):
            counts["ready"] = counts["started"]

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Tell a datamodule that can begin within an epoch the batch at which training goes on."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if trainer.state.fn == "fit" and hasattr(data, "start"):
            data.start = next_batch(checkpoint)
            warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")

    def save_last(self, trainer: Trainer) -> None:
        """Write ``last.ckpt``, keeping the one before as ``previous.ckpt``; all ranks call it."""
        require_finite(trainer)
        on_rank_zero(trainer, lambda: _write_metrics(trainer))
        self._save(trainer, "last")
        self._unsaved = False

    def _value(self, trainer: Trainer) -> float:
        value = trainer.callback_metrics.get(self.monitor)
        if value is None:
            raise CheckpointError(
                f"checkpoint.monitor is {self.monitor!r}, which is not logged; there are: "
                f"{', '.join(sorted(trainer.callback_metrics))}."
            )
        return float(value)

    def _take(self, trainer: Trainer) -> bool:
        """Take the monitored value, and say whether it is the best so far."""
        value = self._value(trainer)
        if not self._improved(value):
            return False
        self.best_value, self.best_epoch = value, trainer.current_epoch
        return True

    def _save(self, trainer: Trainer, name: str) -> None:
        folder = run_folder(trainer) / "checkpoints"
        incoming = folder / "incoming.ckpt"
        error: OutputError | None = None
        try:
            trainer.save_checkpoint(incoming, weights_only=False)
        except OutputError as raised:  # on rank 0; the others wait where lightning does
            error = raised
            trainer.strategy.barrier()
        share_error(trainer, error)

        def put() -> None:
            with writing(folder):
                if name == "last" and (folder / "last.ckpt").exists():
                    (folder / "last.ckpt").replace(folder / "previous.ckpt")
                incoming.replace(folder / f"{name}.ckpt")

        on_rank_zero(trainer, put)

    def _improved(self, value: float) -> bool:
        if value != value:
            return self.best_value is None  # NaN is better than no checkpoint at all
        if self.best_value is None or self.best_value != self.best_value:
            return True
        return value > self.best_value if self.mode == "max" else value < self.best_value

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know."""
        return {"best_value": self.best_value, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where the checkpoint left."""
        self.best_value, self.best_epoch = state_dict["best_value"], state_dict["best_epoch"]


def _write_metrics(trainer: Trainer) -> None:
    """See that metrics.csv holds what the checkpoint goes on from."""
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSV):
            logger.write()


def next_batch(checkpoint: dict[str, Any]) -> tuple[int, int]:
    """Return the ``(epoch, batch)`` that follows the state in a checkpoint."""
    progress = checkpoint["loops"]["fit_loop"]
    epochs = progress["epoch_progress"]["current"]
    batches = progress["epoch_loop.batch_progress"]["current"]
    within = epochs["started"] > epochs["processed"]  # an epoch has begun and not ended
    return epochs["processed"], batches["processed"] if within else 0


def find_checkpoint(folder: Path, which: str = "best") -> Path:
    """Return a checkpoint of a run folder: ``best``, ``last``, or a file.

    Raises:
        CheckpointError: There is none; the message says what there is.
    """
    if which.endswith(".ckpt"):
        path = Path(which)
        found = path if path.is_file() else folder / "checkpoints" / path
    else:
        found = folder / "checkpoints" / f"{which}.ckpt"
    if not found.is_file():
        there = sorted(p.stem for p in (folder / "checkpoints").glob("*.ckpt"))
        raise CheckpointError(
            f"No checkpoint {which!r} for run {folder}. "
            + (f"There are: {', '.join(there)}." if there else "Its checkpoints/ has none.")
        )
    return found


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running any code from it (``weights_only=True``).

    Raises:
        CheckpointError: Not a checkpoint of ours, truncated, or not to be read safely.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises RuntimeError, pickle's, zipfile's and OS errors
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({reason}). It is truncated, not a "
            "checkpoint, or holds more than tensors; take another of the run's checkpoints."
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("mbls"), dict):
        raise CheckpointError(
            f"{path} was not written by mbls: its 'mbls' entry is missing. Give a file from a "
            "run folder's checkpoints/."
        )
    return content


def has_checkpoint(folder: Path) -> bool:
    """Say whether a run has saved a state to go on from, be it whole or damaged."""
    names = ("last.ckpt", "previous.ckpt")
    return any((folder / "checkpoints" / name).exists() for name in names)


def last_checkpoint(folder: Path) -> tuple[Path, str | None]:
    """Return the checkpoint to go on from, and what is wrong with ``last`` if it is ``previous``.

    Raises:
        CheckpointError: Neither can be read.
    """
    previous = folder / "checkpoints" / "previous.ckpt"
    try:
        last = find_checkpoint(folder, "last")
        read_checkpoint(last)
    except CheckpointError as error:
        if not previous.is_file():
            raise CheckpointError(
                f"{error} There is no previous.ckpt beside it; remove last.ckpt to begin the run "
                "again in its folder."
            ) from error
        read_checkpoint(previous)
        return previous, str(error)
    return last, None
