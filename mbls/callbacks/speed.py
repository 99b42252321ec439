"""How fast a run trains, what it waits for and how much memory it has taken."""

import resource
import sys
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["Speed", "peak_memory"]


class Speed(Callback):
    """Log once an epoch what the clock says of its training steps; validation does not count.

    ``speed/samples_per_second`` over all ranks; ``speed/data_wait_share``, the part of the time
    that passes between a step's end and the next batch's arrival; ``speed/peak_memory_mb`` of this
    process so far, and ``speed/peak_gpu_memory_mb``. No step waits for the device: on a GPU, what
    is queued when an epoch's last step returns is missing from its time, and a wait for data may
    be hidden behind work that is still queued.

    These values go to speed.csv (:class:`~mbls.callbacks.MetricsCSV`): a run that is repeated has
    the same metrics.csv, and never the same speed.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._mark = time.perf_counter()
        self._seconds = self._waited = 0.0
        self._samples = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, also where a run is resumed within an epoch."""
        self._begin()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restart the clock."""
        self._begin()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch, and the time until it was there."""
        now = time.perf_counter()
        waited, self._mark = now - self._mark, now
        self._waited, self._seconds = self._waited + waited, self._seconds + waited
        self._samples += batch["image"].shape[0]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the step's own time."""
        now = time.perf_counter()
        self._seconds, self._mark = self._seconds + now - self._mark, now

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the validation out."""
        self._mark = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch's values, as means over ranks."""
        seconds = max(self._seconds, 1e-9)
        values = {
            "samples_per_second": self._samples * trainer.world_size / seconds,
            "data_wait_share": self._waited / seconds,
            **peak_memory(),
        }
        logged = {f"speed/{name}": float(value) for name, value in values.items()}
        pl_module.log_dict(logged, sync_dist=True)


def peak_memory() -> dict[str, int]:
    """Return the largest memory that this process has taken so far in MB, and on a GPU."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB, but bytes on a Mac
    found = {"peak_memory_mb": round(peak / (2**20 if sys.platform == "darwin" else 2**10))}
    if torch.cuda.is_available():
        found["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return found
