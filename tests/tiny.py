"""Tiny runs: arguments, callbacks that disturb them, and comparisons of their files."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision

from mbls.callbacks import results as test_results
from mbls.callbacks import run_folder as run_folder_of
from mbls.cli import main
from mbls.config.options import parse, parser, to_argv
from mbls.config.runs import run_settings
from mbls.evaluation import results
from mbls.runtime.locks import is_locked
from mbls.runtime.rank_zero import on_rank_zero

FIGURES = [
    (results, "write_figures", results.write_figures),
    (test_results, "save_figure", test_results.save_figure),
]


def leave_out_figures(replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Draw none of a test's figures; the last file of a complete test is empty."""
    replace(results, "write_figures", lambda folder, *_: (folder / "reliability.png").touch())
    replace(test_results, "save_figure", lambda *_: None)


def train_args(folder: Path, *, epochs: int = 2, **settings: Any) -> list[str]:
    """Return arguments of ``mbls train`` for blobs, a two-level network and the MbLS loss.

    ``settings`` are the datamodule's; the choices are written to ``folder``.
    """
    network = {
        "class_path": "monai.networks.nets.UNet",
        "init_args": {"channels": [4, 8], "strides": [2], "num_res_units": 0, "dropout": 0.1},
    }
    data = {"class_path": "tests.blobs.BlobDataModule", "init_args": {"root": None} | settings}
    choices = {
        "data/blobs": {"data": data},
        "network/tiny": {"model": {"network": network, "divisor": 2}},
    }
    for name, content in choices.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))
    return [
        "--dataset", str(folder / "data/blobs.yaml"),
        "--network", str(folder / "network/tiny.yaml"),
        "--loss", "mbls", "--preset", "quick", "--epochs", str(epochs), "--accelerator", "cpu",
        "--trainer.callbacks", "null", "--run.root", str(folder / "runs"),
        "--trainer.enable_progress_bar", "false",
    ]  # fmt: skip


def trainer(**settings: Any) -> Trainer:
    """Return a trainer of one epoch on the CPU that writes and prints nothing."""
    quiet = {
        "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
        "enable_model_summary": False, "use_distributed_sampler": False,
        "num_sanity_val_steps": 0, "max_epochs": 1,
    }  # fmt: skip
    return Trainer(accelerator="cpu", **quiet | settings)


def fit(*args: str) -> int:
    """Train in this process without the test; return the exit status of ``mbls``."""
    return main(fit_args(*args))


def fit_args(*args: str) -> list[str]:
    """Return arguments of ``mbls fit`` for those of ``mbls train``."""
    return ["fit", *to_argv(run_settings(*parse(parser("train", None), args)))]


def resume(run: Path, *args: str) -> int:
    """Resume a run without the callbacks of this file; return the exit status."""
    return fit("--run", str(run), "--resume", "--trainer.callbacks", "null", *args)


def state(run: Path, name: str = "last") -> dict[str, Any]:
    """Return the content of a checkpoint."""
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


class Interrupt(Callback):
    """Send this process a signal after a batch of training, or within a validation."""

    def __init__(self, epoch: int, batch: int, *, number: int = 2, validation: bool = False):
        self.at, self.number, self.validation = (epoch, batch), number, validation

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if not self.validation and (trainer.current_epoch, batch_idx) == self.at:
            os.kill(os.getpid(), self.number)

    def on_validation_start(self, trainer, pl_module) -> None:
        if (
            self.validation
            and (trainer.current_epoch, 0) == self.at
            and not trainer.sanity_checking
        ):
            os.kill(os.getpid(), self.number)


class Scaled(MixedPrecision):
    """Float16 with a real scaler on the CPU, where lightning takes none by itself.

    Its first steps overflow and are skipped; then its scale grows every third step.
    """

    START = 2.0**22

    def __init__(self) -> None:
        scaler = torch.amp.GradScaler("cpu", init_scale=self.START, growth_interval=3)
        super().__init__("16-mixed", "cpu", scaler)


class Poison(Callback):
    """Make one weight infinite after a batch, as an update that blew up does."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.at = (epoch, batch)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if (trainer.current_epoch, batch_idx) == self.at:
            next(pl_module.parameters()).data.view(-1)[0] = float("inf")


class Slow(Callback):
    """Take a while for each batch, and write its number to the run folder."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.is_global_zero:
            (run_folder_of(trainer) / "steps").write_text(str(trainer.global_step))
        time.sleep(self.seconds)


class Fail(Callback):
    """Fail on rank 0, where the others wait for it."""

    def on_train_start(self, trainer, pl_module) -> None:
        on_rank_zero(trainer, lambda: {}["a fault of the code"])


class NoteLocked(Callback):
    """Write to the run folder whether it is locked during the test."""

    def on_test_start(self, trainer, pl_module) -> None:
        folder = run_folder_of(trainer)
        (folder / "locked").write_text(str(is_locked(folder)))


class Hang(Callback):
    """Leave a file before the first batch, then hang."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        Path(self.file).touch()
        time.sleep(300)


def callback(name: str, **settings: Any) -> list[str]:
    """Return arguments that add a callback, of this file unless it is given with its module."""
    given = [f"--trainer.callbacks.init_args.{key}={value}" for key, value in settings.items()]
    return [f"--trainer.callbacks+={name if '.' in name else f'tests.tiny.{name}'}", *given]


def run_folder(folder: Path) -> Path:
    """Return the folder of the first run of :func:`train_args`."""
    return folder / "runs" / "blobs" / "tiny-mbls" / "seed0"


def assert_equal(run: Path, whole: Path) -> None:
    """Require the same bits of checkpoints, logged values and test results."""
    assert_equal_training(run, whole, "last", "previous", "best")
    for name in ("test/best/metrics.json", "test/best/cases.csv"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    ours, theirs = (dict(np.load(folder / "test/best/bins.npz")) for folder in (run, whole))
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.tobytes() == theirs[name].tobytes(), name


def assert_equal_training(run: Path, whole: Path, *names: str) -> None:
    """Require the same bits of some checkpoints and of the logged values."""
    for name in names:
        ours, theirs = state(run, name), state(whole, name)
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
            assert_same(ours[part], theirs[part], f"{name}/{part}")
    assert (run / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def assert_same(ours: Any, theirs: Any, where: str) -> None:
    """Require the same bits of two nested structures of tensors and values."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype, where
        assert torch.equal(ours, theirs), where
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_same(ours[key], theirs[key], f"{where}/{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for k, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_same(*pair, f"{where}/{k}")
    else:
        assert ours == theirs, where
