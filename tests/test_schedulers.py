"""Learning-rate schedulers: steps, monitors, and settings refused before training."""

from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch.cli import ReduceLROnPlateau
from torch.optim import lr_scheduler

from mbls.runtime.errors import SettingError
from tests import tiny
from tests.blobs import BlobDataModule
from tests.test_module import module

pytestmark = pytest.mark.filterwarnings("ignore")


def trained(scheduler: Any, *, epochs: int = 3, interval: str = "epoch", **settings: Any):
    """Fit with a scheduler; the trainer, and the learning rate in each epoch."""
    built = module(scheduler=scheduler, scheduler_interval=interval)
    rates: list[float] = []
    built.on_train_epoch_start = lambda: rates.append(  # type: ignore[method-assign]
        built.optimizers().param_groups[0]["lr"]
    )
    trainer = tiny.trainer(max_epochs=epochs, **settings)
    trainer.fit(built, datamodule=BlobDataModule(size=16, train=4))
    return trainer, rates


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [
        ("val/dice", "max"), ("val/nll", "min"), ("val/ece", "min"), ("val/dice/class1", "max"),
        ("train/loss", "min"),
    ],
)  # fmt: skip
def test_plateau_watches_its_own_monitor(monitor: str, mode: str) -> None:
    trainer, _ = trained(partial(ReduceLROnPlateau, monitor=monitor, mode=mode), epochs=1)
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    assert scheduler.best == pytest.approx(float(trainer.callback_metrics[monitor]))


def test_torchs_plateau_watches_dice_for_more() -> None:
    trainer, _ = trained(partial(lr_scheduler.ReduceLROnPlateau, mode="max"), epochs=1)
    best = trainer.lr_scheduler_configs[0].scheduler.best
    assert best == pytest.approx(float(trainer.callback_metrics["val/dice"]))


def test_plateau_follows_the_validation() -> None:
    """Never better than by 10: each step but the first cuts the rate."""
    make = partial(lr_scheduler.ReduceLROnPlateau, mode="max", patience=0, threshold=10.0,
                   threshold_mode="abs")  # fmt: skip
    _, rates = trained(make, epochs=6, check_val_every_n_epoch=2)
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 1e-3, 1e-4, 1e-4])
    _, rates = trained(make, epochs=3)
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4])


def test_plateau_of_validations_by_steps() -> None:
    """The first epoch has none yet: nothing to step on, and no end of the run."""
    make = partial(lr_scheduler.ReduceLROnPlateau, mode="max", patience=0, threshold=10.0,
                   threshold_mode="abs")  # fmt: skip
    _, rates = trained(make, epochs=4, check_val_every_n_epoch=None, val_check_interval=2)
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4])


@pytest.mark.parametrize(
    ("scheduler", "interval", "message"),
    [
        (lr_scheduler.ReduceLROnPlateau, "epoch", "more is better.*mode must be max"),
        (partial(ReduceLROnPlateau, monitor="val/nll", mode="max"), "epoch", "mode must be min"),
        (partial(ReduceLROnPlateau, monitor="val/dice/disc"), "epoch", "mode must be max"),
        (partial(ReduceLROnPlateau, monitor="val/dise"), "epoch", "one of .*val/ece.* got val/dis"),
        (partial(ReduceLROnPlateau, monitor="val/nll"), "step", "scheduler_interval must be epoch"),
    ],
)
def test_contradicting_scheduler_is_refused(scheduler: Any, interval: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(scheduler=scheduler, scheduler_interval=interval, unions={"disc": (1, 2)})


@pytest.mark.parametrize("off", [{"limit_val_batches": 0}, {"check_val_every_n_epoch": 9}])
def test_plateau_of_a_run_that_never_validates_is_refused(off: dict[str, Any]) -> None:
    make = partial(ReduceLROnPlateau, monitor="val/nll")
    with pytest.raises(SettingError, match="monitor val/nll needs a validation"):
        trained(make, **off)
    trained(partial(ReduceLROnPlateau, monitor="train/loss"), epochs=1, **off)


def test_warm_up_within_the_first_epoch() -> None:
    make = partial(lr_scheduler.LinearLR, start_factor=0.1, total_iters=4)
    trainer, rates = trained(make, epochs=5, interval="step")
    assert trainer.global_step == 5  # one batch an epoch
    assert rates == pytest.approx([1e-4, 3.25e-4, 5.5e-4, 7.75e-4, 1e-3])


@pytest.mark.parametrize(
    "make",
    [
        partial(lr_scheduler.CosineAnnealingLR, T_max=3),
        partial(lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 0.5**epoch),
        partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=4),
        lambda optimizer: lr_scheduler.SequentialLR(
            optimizer,
            [lr_scheduler.LinearLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.5)],
            milestones=[1],
        ),
    ],
    ids=["cosine", "lambda", "one cycle", "warm-up"],
)
@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_schedulers_that_watch_nothing(make: Any, interval: str) -> None:
    _, rates = trained(make, interval=interval)
    assert torch.tensor(rates).isfinite().all()
    assert len(set(rates)) > 1
