"""Stop a run whose loss or weights become NaN or infinite, and name the cases."""

from collections import deque
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from mbls.runtime.errors import NonFiniteError

__all__ = ["NaNGuard", "require_finite"]

LEAST_SCALE = 2.0**-30  # reached from 2^16 only after 46 skipped steps in a row
ADVICE = (
    "The run is stopped; its earlier checkpoints are valid. Lower the learning rate, clip "
    "gradients (--trainer.gradient_clip_val 1), or check these cases with `make check-data`."
)


class Step(NamedTuple):
    """A step since the last check."""

    epoch: int
    step: int
    cases: list[str]
    bad: Tensor


class NaNGuard(Callback):
    """Check the loss once per logging interval, without a sync in other steps.

    Each step keeps one flag on the device. The check is reduced over ranks, so all stop at the
    same step. Weights are checked before a validation and before a checkpoint is written.

    Under float16 the scaler skips steps whose gradients overflow and halves its scale. That is not
    an error, unless the scale keeps falling.
    """

    def __init__(self) -> None:
        self._pending: deque[Step] = deque()
        self._before: Step | None = None  # the last step of the previous check

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep this step's flag, and check all flags every ``log_every_n_steps``."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if loss is None:
            return
        flag = ~torch.isfinite(loss.detach()).all()
        cases = list(batch.get("case", [])) if isinstance(batch, dict) else []
        self._pending.append(Step(trainer.current_epoch, trainer.global_step, cases, flag))
        if (batch_idx + 1) % max(1, trainer.log_every_n_steps) == 0:  # type: ignore[attr-defined]
            self.look(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check before a validation, whose metrics need finite probabilities."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            require_finite(trainer)

    def look(self, trainer: Trainer) -> None:
        """Check the losses of all ranks since the last check.

        Raises:
            NonFiniteError: A loss was not finite; raised on every rank. The message names epoch,
                step and the cases of the batch and of the one before, whose update may have
                caused it.
        """
        if not self._pending:
            return
        steps, self._pending = list(self._pending), deque()
        before, self._before = self._before, steps[-1]
        _require_scale(trainer)
        flags = torch.stack([step.bad for step in steps]).float()
        anywhere = trainer.strategy.reduce(flags, reduce_op="sum")
        bad = [k for k, value in enumerate(torch.as_tensor(anywhere).tolist()) if value > 0]
        if not bad:
            return
        first = steps[bad[0]]
        earlier = steps[bad[0] - 1] if bad[0] else before
        raise NonFiniteError(
            f"The loss became NaN or infinite in epoch {first.epoch + 1}, step {first.step}; "
            + _batch("cases of the batch:", first.cases if bool(first.bad) else [], trainer)
            + (_batch("; of the one before:", earlier.cases, trainer) if earlier else "")
            + f". {ADVICE}"
        )

    def look_at_weights(self, trainer: Trainer) -> None:
        """Check the weights and buffers of all ranks.

        Raises:
            NonFiniteError: A weight or a buffer (such as batch norm's) is not finite on some rank;
                raised on every rank.
        """
        tensors = _weights(trainer)
        if not tensors:
            return
        bad = ~torch.stack([tensor.isfinite().all() for tensor in tensors]).all()
        if not trainer.strategy.reduce(bad.float(), reduce_op="sum"):
            return
        last = self._before
        raise NonFiniteError(
            f"A weight became NaN or infinite by epoch {trainer.current_epoch + 1}, step "
            f"{trainer.global_step}, although the loss was finite; "
            + _batch("cases of the last batch:", last.cases if last else [], trainer)
            + f". {ADVICE}"
        )


def require_finite(trainer: Trainer) -> None:
    """Check losses and weights with the trainer's NaNGuard; all ranks must call this.

    Raises:
        NonFiniteError: A loss or a weight is NaN or infinite; raised on every rank.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    guards = [callback for callback in callbacks if isinstance(callback, NaNGuard)]
    guard = guards[0] if guards else NaNGuard()
    guard.look(trainer)
    guard.look_at_weights(trainer)


def _require_scale(trainer: Trainer) -> None:
    """Raise if the gradient scaler has skipped every recent step; all ranks have its scale."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is not None and scaler.get_scale() < LEAST_SCALE:
        raise NonFiniteError(
            "Gradients are NaN or infinite in every step up to epoch "
            f"{trainer.current_epoch + 1}, step {trainer.global_step}, although the loss is "
            f"finite: the gradient scaler has skipped these steps, and its scale has fallen to "
            f"{scaler.get_scale():.1g}. Look for a root or a logarithm of 0 in the loss, or train "
            "with --precision bf16-mixed or 32-true."
        )


def _weights(trainer: Trainer) -> list[Tensor]:
    return [
        t for t in trainer.lightning_module.state_dict().values()
        if isinstance(t, Tensor) and t.is_floating_point()
    ]  # fmt: skip


def _batch(text: str, cases: list[str], trainer: Trainer) -> str:
    return f"{text} {', '.join(_gather(cases, trainer.world_size)) or 'unnamed cases'}"


def _gather(cases: list[str], world_size: int) -> list[str]:
    """Return the cases of all ranks without duplicates."""
    if world_size == 1:
        return list(dict.fromkeys(cases))
    parts: list[list[str]] = [[] for _ in range(world_size)]
    torch.distributed.all_gather_object(parts, cases)
    return list(dict.fromkeys(case for part in parts for case in part))
