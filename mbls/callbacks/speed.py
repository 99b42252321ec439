"""Log training speed, time waiting for data, and peak memory."""

import resource
import sys
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["Speed", "peak_memory"]


class Speed(Callback):
    """Log the speed of training steps once per epoch, without validation.

    ``speed/samples_per_second`` over all ranks; ``speed/data_wait_share``, the share of time
    between the end of a step and the arrival of the next batch; ``speed/peak_memory_mb`` of this
    process, and ``speed/peak_gpu_memory_mb``. There is no device sync: on a GPU, kernels that are
    still queued at the end of an epoch are not counted, and queued work may hide a wait for data.

    The values go to speed.csv (:class:`~mbls.callbacks.MetricsCSV`), since they are not
    reproducible.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._mark = time.perf_counter()
        self._seconds = self._waited = 0.0
        self._samples = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, also if a run resumes within an epoch."""
        self._begin()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restart the clock."""
        self._begin()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch, and the time until it arrived."""
        now = time.perf_counter()
        waited, self._mark = now - self._mark, now
        self._waited, self._seconds = self._waited + waited, self._seconds + waited
        self._samples += batch["image"].shape[0]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the time of the step."""
        now = time.perf_counter()
        self._seconds, self._mark = self._seconds + now - self._mark, now

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Skip the time of the validation."""
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
    """Return the peak memory of this process in MB, and that on its GPU."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB, but bytes on a Mac
    found = {"peak_memory_mb": round(peak / (2**20 if sys.platform == "darwin" else 2**10))}
    if torch.cuda.is_available():
        found["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return found
