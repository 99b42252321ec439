"""Means over the samples of an epoch that survive a resume."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

__all__ = ["EpochMeans"]


class EpochMeans:
    """Sum named scalars over an epoch's samples in float64, on their device without a sync.

    Lightning does not checkpoint its sums of logged values: a run that resumes within an epoch
    would log the mean over the steps since then.
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._sums = torch.zeros(1, dtype=torch.float64)  # of each value; last, the sample count
        self._shared: Tensor | None = None  # cached sums of all ranks

    def add(self, values: Mapping[str, Tensor], samples: int) -> None:
        """Add a batch of ``samples``; each value is a scalar, their mean."""
        if not self._names:
            self._names = tuple(values)
            self._sums = torch.zeros(len(values) + 1, dtype=torch.float64)
        batch = [values[name].detach().reshape(()) for name in self._names]
        ones = torch.ones_like(batch[0])
        weighted = torch.stack([*batch, ones]).double() * samples
        self._sums = self._sums.to(weighted.device) + weighted
        self._shared = None

    def take(self, trainer: Trainer) -> dict[str, Tensor]:
        """Return the means over all ranks' samples, float32, and reset."""
        sums = trainer.strategy.reduce(self._here(trainer), reduce_op="sum")
        assert isinstance(sums, Tensor)
        means = {name: (sums[k] / sums[-1]).float() for k, name in enumerate(self._names)}
        self._names, self._sums = (), torch.zeros(1, dtype=torch.float64)
        self._shared = None
        return means

    def share(self, trainer: Trainer) -> Tensor:
        """Return the sums of all ranks, ``(ranks, values + 1)``; all ranks must call this.

        It is called before a checkpoint is written: while writing, one rank may fail, and the
        others would wait for it in a collective.
        """
        if self._shared is None:
            sums = [self._here(trainer)]
            if trainer.world_size > 1:
                sums = [torch.empty_like(sums[0]) for _ in range(trainer.world_size)]
                torch.distributed.all_gather(sums, self._here(trainer))
            self._shared = torch.stack(sums).cpu()
        return self._shared

    def state(self, trainer: Trainer) -> dict[str, Any]:
        """Return the checkpoint's state, the sums of all ranks; all ranks must call this."""
        return {"names": list(self._names), "sums": self.share(trainer)}

    def load(self, state: Mapping[str, Any], trainer: Trainer) -> None:
        """Restore this rank's sums; if the number of ranks has changed, rank 0 gets the total."""
        self._names, sums = tuple(state["names"]), state["sums"]
        self._shared = None
        if len(sums) == trainer.world_size:
            self._sums = sums[trainer.global_rank]
        else:
            whole = sums.sum(dim=0)
            self._sums = whole if trainer.is_global_zero else torch.zeros_like(whole)

    def _here(self, trainer: Trainer) -> Tensor:
        return self._sums.to(trainer.strategy.root_device)  # collectives need this device
