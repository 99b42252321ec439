"""Tiny runs: the words of one, and a launcher of real processes with a time limit."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.plugins.precision import MixedPrecision

from mbls.callbacks import run_folder as run_folder_of
from mbls.cli import main
from mbls.config.options import parse, parser, to_argv
from mbls.config.runs import run_settings
from mbls.runtime.locks import is_locked
from mbls.runtime.rank_zero import on_rank_zero
from tests.processes import killed_after_the_test

ROOT = Path(__file__).parents[1]
MBLS = Path(sys.executable).with_name("mbls")


def words(folder: Path, *, epochs: int = 2, **settings: Any) -> list[str]:
    """Words of ``mbls train`` for blobs, a two-level network and the MbLS loss.

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


def fit(*args: str) -> int:
    """Train in this process without the test; the status that ``mbls`` would exit with."""
    return main(fit_words(*args))


def fit_words(*args: str) -> list[str]:
    """Arguments of ``mbls fit`` for those of ``mbls train``."""
    return ["fit", *to_argv(run_settings(*parse(parser("train", None), args)))]


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
    """Take a while for each batch, and keep the number of the last one in the run folder."""

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


class NoteHeld(Callback):
    """Keep in the run folder whether it is held while the run is tested."""

    def on_test_start(self, trainer, pl_module) -> None:
        folder = run_folder_of(trainer)
        (folder / "held").write_text(str(is_locked(folder)))


class Hang(Callback):
    """Hang before the first batch, and leave a file that says so."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        Path(self.file).touch()
        time.sleep(300)


def callback(name: str, **settings: Any) -> list[str]:
    """Words that add one of the callbacks above to those of the configuration."""
    given = [f"--trainer.callbacks.init_args.{key}={value}" for key, value in settings.items()]
    return [f"--trainer.callbacks+=tests.tiny.{name}", *given]


def run_folder(folder: Path) -> Path:
    """The folder of the first run of :func:`words`."""
    return folder / "runs" / "blobs" / "tiny-mbls" / "seed0"


@dataclass(frozen=True)
class Done:
    """What a finished process left."""

    code: int
    out: str
    err: str
    seconds: float


def start(*args: str, folder: Path = ROOT) -> subprocess.Popen:
    """Start ``mbls`` in a process group of its own, one thread a process."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        env.pop(name, None)
    process = subprocess.Popen(
        [str(MBLS), *args], cwd=folder, env=env, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    return killed_after_the_test(process)


def finish(process: subprocess.Popen, *, limit: float = 300) -> Done:
    """Wait for a process of :func:`start`; whatever hangs is killed, and fails the test."""
    begin = time.monotonic()
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        stop_hanging(process)
    return Done(process.returncode, out, err, time.monotonic() - begin)


def stop_hanging(*processes: subprocess.Popen) -> NoReturn:
    """Kill processes with all they started, and fail with what they said."""
    told = ""
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        told += f"\n--- stdout of {process.pid}\n{out}\n--- stderr\n{err}"
    raise AssertionError(f"{processes[0].args} hung{told}")


def mbls(*args: str, limit: float = 300, folder: Path = ROOT) -> Done:
    """Run ``mbls`` to its end."""
    return finish(start(*args, folder=folder), limit=limit)


class Process(Protocol):
    """What can say whether it has ended."""

    def poll(self) -> int | None: ...


def wait_for(there: Callable[[], bool], process: Process, *, limit: float = 300) -> None:
    """Wait until something is there, or the process has ended, or the time is up."""
    end = time.monotonic() + limit
    while not there() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
