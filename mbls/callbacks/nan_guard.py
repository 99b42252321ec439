"""The NaN guard: a loss that is not finite stops the run and names the cases in question."""

from collections import deque
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from mbls.errors import NonFiniteError

__all__ = ["NaNGuard"]


class NaNGuard(Callback):
    """Watch the loss on the device, and look at it once a logging interval.

    No step waits for the device: the losses since the last look stay there as one flag each.
    The look is reduced over ranks, so that all stop at the same step.
    """

    def __init__(self) -> None:
        self._pending: deque[tuple[int, int, list[str], Tensor]] = deque()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remember this step's flag, and look every ``log_every_n_steps``."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if loss is None:
            return
        flag = ~torch.isfinite(loss.detach()).all()
        cases = list(batch.get("case", [])) if isinstance(batch, dict) else []
        self._pending.append((trainer.current_epoch, trainer.global_step, cases, flag))
        if (batch_idx + 1) % max(1, trainer.log_every_n_steps) == 0:  # type: ignore[attr-defined]
            self.look(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what is left of the epoch."""
        self.look(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before a validation, which ends in checkpoints."""
        if not trainer.sanity_checking:
            self.look(trainer)

    def look(self, trainer: Trainer) -> None:
        """Raise if a loss since the last look was not finite on any rank.

        Raises:
            NonFiniteError: On every rank, naming epoch, step and the batch's cases.
        """
        if not self._pending:
            return
        steps, self._pending = list(self._pending), deque()
        flags = torch.stack([flag for *_, flag in steps]).float()
        anywhere = trainer.strategy.reduce(flags, reduce_op="sum")
        bad = [k for k, value in enumerate(torch.as_tensor(anywhere).tolist()) if value > 0]
        if not bad:
            return
        epoch, step, cases, flag = steps[bad[0]]
        everywhere = _gather(cases if bool(flag) else [], trainer.world_size)
        raise NonFiniteError(
            f"The loss became NaN or infinite in epoch {epoch}, step {step}; the batch holds "
            f"{', '.join(everywhere) or 'unnamed cases'}. The run is stopped, and its checkpoints "
            "are those written before. Lower the learning rate, clip gradients "
            "(--trainer.gradient_clip_val 1), or check these cases with `make check-data`."
        )


def _gather(cases: list[str], world_size: int) -> list[str]:
    """Return the cases of all ranks, each once."""
    if world_size == 1:
        return list(dict.fromkeys(cases))
    parts: list[list[str]] = [[] for _ in range(world_size)]
    torch.distributed.all_gather_object(parts, cases)
    return list(dict.fromkeys(case for part in parts for case in part))
