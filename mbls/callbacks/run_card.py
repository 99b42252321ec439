"""Write run.json: names, data, versions, hardware and speed of a run."""

import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mbls.callbacks.run_folder import folder_callback
from mbls.callbacks.speed import peak_memory
from mbls.data import DataModule, datamodule_of
from mbls.loggers.trackers import facts
from mbls.runtime.files import replace_file
from mbls.runtime.rank_zero import on_rank_zero
from mbls.runtime.threads import threads_in_force

__all__ = ["RunCard", "commit"]

PACKAGES = ("mbls", "torch", "lightning", "torchmetrics", "monai", "nibabel", "numpy")


class RunCard(Callback):
    """Write ``run.json`` when a fit starts, and again with the speed when it ends.

    Args:
        preset: Name of the preset.
    """

    def __init__(self, *, preset: str = "own") -> None:
        self.preset = preset
        self.config_hash: str | None = None  # of the resolved configuration; set by the CLI
        self._start = 0.0
        self._earlier = 0.0  # seconds before the run was resumed
        self._samples = 0
        self._card: dict[str, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write everything that is known before the first step."""
        self._start = time.monotonic()
        data = datamodule_of(trainer)
        parts = {} if data is None else {part: data.patients(part) for part in _parts(data)}
        folder = folder_callback(trainer)
        self._card = {
            "dataset": folder.dataset,
            "network": folder.network,
            "loss": folder.loss,
            "preset": self.preset,
            "seed": folder.seed,
            "fold": None if data is None else data.fold,
            "data_origin": None if data is None else data.origin,
            "data_fingerprint": None if data is None else data.fingerprint,
            "config_hash": self.config_hash,
            "cases": {part: len(cases) for part, cases in parts.items()},  # one patient per case
            "trained_on": sorted({p for part in parts if part != "test" for p in parts[part]}),
            "adapts_on": getattr(pl_module, "adapts_on", None),
            "inference": getattr(pl_module, "inference", None),
            "commit": commit(),
            "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "python": platform.python_version(),
            "versions": {p: importlib.metadata.version(p) for p in PACKAGES},
            "ranks": trainer.world_size,
            "nodes": trainer.num_nodes,
            "device": _device_name(trainer.strategy.root_device),
            **threads_in_force(),
            "precision": trainer.precision,
            "parameters": sum(p.numel() for p in pl_module.parameters()),
            "finished": False,
        }
        self._write(trainer)
        for logger in trainer.loggers:
            logger.log_hyperparams(facts(self._card))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the samples of this rank."""
        self._samples += batch["image"].shape[0]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add wall time, speed and memory."""
        seconds = self._seconds()
        self._card |= {
            "finished": True,
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "wall_seconds": round(seconds, 1),
            "samples_per_second": round(self._samples * trainer.world_size / seconds, 2),
            **peak_memory(),
        }
        self._write(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return seconds and samples so far."""
        return {"seconds": self._seconds(), "samples": self._samples}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore seconds and samples."""
        self._earlier, self._samples = state_dict["seconds"], state_dict["samples"]

    def _seconds(self) -> float:
        return self._earlier + time.monotonic() - self._start

    def _write(self, trainer: Trainer) -> None:
        path = folder_callback(trainer).path / "run.json"
        text = json.dumps(self._card, indent=2) + "\n"
        on_rank_zero(trainer, lambda: replace_file(path, text.encode()))


def _parts(data: DataModule) -> tuple[str, ...]:
    held_out = ("holdout",) if data.adapt == "holdout" else ()
    return ("train", "val", "test", *held_out)


def commit() -> str | None:
    """Return the commit of this checkout, with ``+`` if it was modified, or None."""
    here = Path(__file__).parent
    try:
        _git(here, "ls-files", "--error-unmatch", Path(__file__).name)  # not an enclosing checkout
        sha = _git(here, "rev-parse", "HEAD")
        return sha + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *args: str) -> str:
    done = subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
