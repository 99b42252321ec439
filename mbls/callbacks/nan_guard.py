"""The NaN guard: a loss or a weight that is not finite stops the run and names the cases."""

from collections import deque
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from mbls.runtime.errors import NonFiniteError

__all__ = ["NaNGuard", "require_finite"]

LEAST_SCALE = 2.0**-30  # float16 needs less in no sound run: from 2^16, 46 steps skipped in a row
ADVICE = (
    "The run is stopped, and its checkpoints are those written before. Lower the learning rate, "
    "clip gradients (--trainer.gradient_clip_val 1), or check these cases with `make check-data`."
)


class Step(NamedTuple):
    """What is remembered of a step until the next look."""

    epoch: int
    step: int
    cases: list[str]
    bad: Tensor


class NaNGuard(Callback):
    """Watch the loss on the device, and look at it once a logging interval.

    No step waits for the device: the losses since the last look stay there as one flag each.
    The look is reduced over ranks, so that all stop at the same step. Weights are looked at before
    a validation, and before a checkpoint is written.

    Under float16 a step whose gradients overflow is skipped and the scale halved, which is how a
    fitting scale is found: with a finite loss it is no fault, until the scale has no end.
    """

    def __init__(self) -> None:
        self._pending: deque[Step] = deque()
        self._before: Step | None = None  # the last step of the look before

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remember this step's flag, and look every ``log_every_n_steps``."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if loss is None:
            return
        flag = ~torch.isfinite(loss.detach()).all()
        cases = list(batch.get("case", [])) if isinstance(batch, dict) else []
        self._pending.append(Step(trainer.current_epoch, trainer.global_step, cases, flag))
        if (batch_idx + 1) % max(1, trainer.log_every_n_steps) == 0:  # type: ignore[attr-defined]
            self.look(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before a validation, which asks for finite probabilities."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            require_finite(trainer)

    def look(self, trainer: Trainer) -> None:
        """Raise if a loss since the last look was not finite on any rank.

        Raises:
            NonFiniteError: On every rank, naming epoch, step and the batch's cases, and those of
                the step before, whose update may have spoiled the weights.
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
            + _batch("the batch holds", first.cases if bool(first.bad) else [], trainer)
            + (_batch(", the one before it", earlier.cases, trainer) if earlier else "")
            + f". {ADVICE}"
        )

    def look_at_weights(self, trainer: Trainer) -> None:
        """Raise if a weight is not finite, though no loss was so far.

        Raises:
            NonFiniteError: On every rank, also where it is another's buffer, as of batch norm.
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
            f"{trainer.global_step}, under a loss that was finite; "
            + _batch("the last batch holds", last.cases if last else [], trainer)
            + f". {ADVICE}"
        )


def require_finite(trainer: Trainer) -> None:
    """Raise where a loss was, or a weight is, NaN or infinite; all ranks call it.

    Raises:
        NonFiniteError: On every rank.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    guards = [callback for callback in callbacks if isinstance(callback, NaNGuard)]
    guard = guards[0] if guards else NaNGuard()
    guard.look(trainer)
    guard.look_at_weights(trainer)


def _require_scale(trainer: Trainer) -> None:
    """Raise where a gradient scaler skips every step; ranks share the gradients and the scale."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is not None and scaler.get_scale() < LEAST_SCALE:
        raise NonFiniteError(
            "Gradients are NaN or infinite in step after step by epoch "
            f"{trainer.current_epoch + 1}, step {trainer.global_step}, under a loss that is "
            f"finite: the gradient scaler's scale has fallen to {scaler.get_scale():.1g}, and no "
            "step was taken meanwhile. Look for a root or a logarithm of 0 in the loss, or train "
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
    """Return the cases of all ranks, each once."""
    if world_size == 1:
        return list(dict.fromkeys(cases))
    parts: list[list[str]] = [[] for _ in range(world_size)]
    torch.distributed.all_gather_object(parts, cases)
    return list(dict.fromkeys(case for part in parts for case in part))
