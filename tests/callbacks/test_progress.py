"""The progress bar reads the device once a logging interval; without a bar an epoch is a line."""

import re
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping, RichProgressBar, Timer

from mbls.callbacks import EpochLines, ProgressBar
from mbls.loggers.metrics_csv import read_rows
from tests import tiny


def test_values_are_read_once_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    monkeypatch.setattr(
        RichProgressBar, "get_metrics", lambda self, trainer, module: reads.append(1) or {"n": 1}
    )
    bar = ProgressBar()
    for batch in range(20):
        trainer = SimpleNamespace(
            log_every_n_steps=10, training=True, fit_loop=SimpleNamespace(batch_idx=batch)
        )
        assert bar.get_metrics(trainer, None) == {"n": 1}
    assert len(reads) == 3  # the first batch, the 10th and the 20th


def without(args: list[str], *options: str) -> list[str]:
    """Arguments without some options and their values."""
    left = args.copy()
    for option in options:
        place = left.index(option)
        del left[place : place + 2]
    return left


@pytest.mark.filterwarnings("ignore")
def test_each_epoch_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = tiny.train_args(tmp_path, epochs=3)
    args = without(args, "--trainer.callbacks")  # with the bar, which is switched off
    stop = tiny.callback("Interrupt", epoch=1, batch=0)
    assert tiny.fit(*args, *stop, "--trainer.check_val_every_n_epoch", "2") == 130
    out = capsys.readouterr().out
    assert re.search(r"^\[\d\d:\d\d:\d\d\] preparing the data$", out, re.MULTILINE)
    assert "] training from epoch 1/3, 2 steps each\n" in out
    run = tiny.run_folder(tmp_path)
    assert tiny.resume(run) == 0
    out += capsys.readouterr().out
    assert "] training from epoch 2/3, 2 steps each\n" in out
    rows = read_rows(run / "metrics.csv")
    wanted = [f"epoch {n + 1}/3: train loss {float(row['train/loss']):.4f}" for n, row in
              enumerate(rows)]  # fmt: skip
    second = rows[1]
    wanted[1] += (
        f", val Dice {float(second['val/dice']):.4f}, val ECE {float(second['val/ece']):.4f}"
    )
    lines = re.findall(r"^\[.{8}\] (epoch .*) PHANTOM; [\d.]+ s an epoch", out, re.MULTILINE)
    assert lines == wanted


def made(**settings: Any) -> Any:
    """A trainer that begins in the middle of the second epoch of ten steps."""
    progress = SimpleNamespace(current=SimpleNamespace(processed=5))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    defaults = {
        "fit_loop": loop, "current_epoch": 1, "num_training_batches": 10, "global_step": 15,
        "max_epochs": 4, "max_steps": -1, "callbacks": [], "progress_bar_callback": None,
        "callback_metrics": {"train/loss": 0.5}, "datamodule": None,
    }  # fmt: skip
    return SimpleNamespace(**defaults | settings)


def a_half_epoch(monkeypatch: pytest.MonkeyPatch, trainer: Any) -> EpochLines:
    """Train half an epoch in 30 s."""
    now = time.monotonic()
    lines = EpochLines()
    lines.on_train_start(trainer, None)  # type: ignore[arg-type]
    assert lines.seconds_left(trainer) is None
    monkeypatch.setattr(time, "monotonic", lambda: now + 30.01)
    trainer.global_step += 5
    lines.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    return lines


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({}, 120),
        ({"max_epochs": 2}, 0),
        ({"max_epochs": -1}, None),
        ({"max_epochs": None}, None),
        ({"max_epochs": -1, "max_steps": 25}, 30),
        ({"max_steps": 1000}, 120),
        ({"num_training_batches": float("inf")}, 60),  # unknown: a whole epoch was 30 s
        ({"callbacks": [Timer(timedelta(seconds=20))]}, 20),
        ({"max_epochs": -1, "callbacks": [Timer(timedelta(hours=2))]}, 7200),
        ({"callbacks": [Timer(timedelta(hours=2))]}, 120),
    ],
)
def test_expected_end_of_training(
    settings: dict[str, Any], left: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = made(**settings)
    found = a_half_epoch(monkeypatch, trainer).seconds_left(trainer)
    assert found == (None if left is None else pytest.approx(left, abs=0.1))


def test_line_of_an_epoch_has_the_expected_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = made(callbacks=[EarlyStopping("x")])
    lines = a_half_epoch(monkeypatch, trainer)
    lines.on_train_epoch_start(trainer, None)  # type: ignore[arg-type]
    out = capsys.readouterr().out.splitlines()[1]
    line = (
        r"\[.{8}\] epoch 2/4: train loss 0.5000; 1:00 an epoch; ends about (\w+ )?\d\d:\d\d or ear"
    )
    assert re.match(line, out), out
    lines.on_train_epoch_start(trainer, None)  # type: ignore[arg-type]
    assert not capsys.readouterr().out  # an epoch is printed once


def test_bar_gets_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mbls.callbacks.progress.shows_bars", lambda: True)
    trainer = made(progress_bar_callback=ProgressBar())
    lines = a_half_epoch(monkeypatch, trainer)
    lines.on_train_epoch_start(trainer, None)  # type: ignore[arg-type]
    assert capsys.readouterr().out.count("epoch 2/4") == 1
    lines.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    lines.on_train_epoch_start(trainer, None)  # type: ignore[arg-type]
    lines.on_test_start(trainer, None)  # type: ignore[arg-type]
    assert not capsys.readouterr().out


def test_bar_counts_from_one_and_is_drawn_in_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer: Any = SimpleNamespace(max_epochs=2, is_global_zero=True)
    for terminal in (True, False):
        monkeypatch.setattr("mbls.callbacks.progress.shows_bars", lambda shown=terminal: shown)
        bar = ProgressBar()
        bar.setup(trainer, None, "fit")  # type: ignore[arg-type]
        assert bar.is_enabled == terminal
        assert bar._get_train_description(0).strip() == "Epoch 1/2"
    trainer.max_epochs = -1
    assert bar._get_train_description(0).strip() == "Epoch 1"


@pytest.mark.filterwarnings("ignore")
def test_another_bar_replaces_ours(tmp_path: Path) -> None:
    args = tiny.train_args(tmp_path, epochs=1)
    args = without(args, "--trainer.callbacks", "--trainer.enable_progress_bar")
    args += ["--trainer.callbacks+=lightning.pytorch.callbacks.TQDMProgressBar"]
    assert tiny.fit(*args) == 0
