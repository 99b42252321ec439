"""Seed every training step, so a resumed run draws the same random numbers."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["StepSeed", "step_seed"]


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return a seed for torch that is a function of the three numbers.

    Example:
        >>> step_seed(0, 7, 0) == step_seed(0, 7, 0), step_seed(0, 7, 0) == step_seed(0, 7, 1)
        (True, False)
    """
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])


class StepSeed(Callback):
    """Seed torch before every training batch, for dropout and for losses that sample voxels.

    Args:
        seed: The run's seed.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed from the run's seed, the batches trained on so far and the rank."""
        seed = step_seed(self.seed, trainer.fit_loop.total_batch_idx, trainer.global_rank)
        if trainer.strategy.root_device.type == "cpu":
            torch.default_generator.manual_seed(
                seed
            )  # faster: torch.manual_seed visits all devices
        else:
            torch.manual_seed(seed)
