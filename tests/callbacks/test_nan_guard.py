"""The guard checks once an interval, and names the cases."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mbls.callbacks import NaNGuard
from mbls.callbacks.nan_guard import require_finite
from mbls.runtime.errors import NonFiniteError


def fake_trainer(every: int, *callbacks: Any, network: nn.Module | None = None) -> Any:
    return SimpleNamespace(
        current_epoch=2,
        global_step=0,
        log_every_n_steps=every,
        world_size=1,
        callbacks=list(callbacks),
        lightning_module=network or nn.Linear(1, 1),
        strategy=SimpleNamespace(reduce=lambda flags, reduce_op: flags),
        precision_plugin=None,
    )


def feed(guard: NaNGuard, trainer: Any, losses: list[float]) -> int:
    """Give losses as batches until the guard raises, and return how many it took."""
    for k, loss in enumerate(losses):
        trainer.global_step += 1
        outputs = {"loss": torch.tensor(loss)}
        try:
            guard.on_train_batch_end(trainer, None, outputs, {"case": [f"c{k}"]}, k)
        except NonFiniteError as error:
            guard.message = str(error)
            return k + 1
    return 0


@pytest.mark.parametrize(
    ("first_bad", "every", "seen"), [(0, 1, 1), (3, 4, 4), (4, 4, 8), (5, 10, 10)]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_loss_raises_within_an_interval(
    first_bad: int, every: int, seen: int, value: float
) -> None:
    losses = [1.0] * 20
    losses[first_bad:] = [value] * (20 - first_bad)
    guard = NaNGuard()
    assert feed(guard, fake_trainer(every, guard), losses) == seen
    assert f"in epoch 3, step {first_bad + 1}; cases of the batch: c{first_bad}" in guard.message
    # the step before may have made the weights NaN, also when it was in the interval before
    assert ("of the one before" in guard.message) == (first_bad > 0)
    if first_bad:
        assert f"of the one before: c{first_bad - 1}. " in guard.message


def test_finite_losses_raise_nothing() -> None:
    guard = NaNGuard()
    assert feed(guard, fake_trainer(3, guard), [1.0, 0.0, -5.0, 1e30] * 5) == 0


def test_saving_checks_losses_within_the_interval() -> None:
    guard = NaNGuard()
    trainer = fake_trainer(100, guard)
    assert feed(guard, trainer, [1.0, float("nan")]) == 0
    with pytest.raises(NonFiniteError, match="step 2; cases of the batch: c1"):
        require_finite(trainer)


def test_nan_weight_under_finite_losses_raises() -> None:
    network = nn.BatchNorm1d(2)
    guard = NaNGuard()
    trainer = fake_trainer(100, guard, network=network)
    assert feed(guard, trainer, [1.0, 2.0]) == 0
    require_finite(trainer)
    network.running_mean[0] = float("nan")  # buffers count: they are written too
    with pytest.raises(NonFiniteError, match=r"by epoch 3, step 2, .* cases of the last batch: c1"):
        require_finite(trainer)


def test_weights_are_checked_without_a_guard() -> None:
    network = nn.Linear(1, 1)
    network.weight.data.fill_(float("inf"))
    with pytest.raises(NonFiniteError, match="unnamed cases"):
        require_finite(fake_trainer(1, network=network))


def test_nan_buffer_of_another_rank_raises() -> None:
    trainer = fake_trainer(100, NaNGuard(), network=nn.BatchNorm1d(2))
    require_finite(trainer)
    trainer.strategy.reduce = lambda flag, reduce_op: flag + 1
    with pytest.raises(NonFiniteError, match="NaN or infinite by epoch 3"):
        require_finite(trainer)
