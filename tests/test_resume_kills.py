"""A run that is killed at any moment and resumed ends with the same bits."""

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback

from tests import few, tiny
from tests.forks import Ended, Forks

KILLED = -signal.SIGKILL
EPOCHS = 3
AUGMENTATION = {"flip": 0.5, "rotation": 20.0, "scale": 0.2, "gamma": 0.3, "noise": 0.1}


class KillAtCall(Callback):
    """Kill this process with the ``number``-th call of a function of a module or class.

    Args:
        target: ``fsync``, when a file is complete under its temporary name, or ``rename``.
        number: Which call.
        file: Count the calls for files whose name has this pattern alone.
        half: Whether half of the file is lost, as when the kill comes while it is written.
        after: Whether the call is carried out first.
    """

    def __init__(
        self, target: str, number: int, *, file: str = "*", half: bool = False, after: bool = False
    ) -> None:
        owner, name = {"fsync": (os, "fsync"), "rename": (Path, "replace")}[target]
        original, calls = getattr(owner, name), []

        def call(*args: Any) -> Any:
            path = args[0] if target == "rename" else Path(f"/proc/self/fd/{args[0]}").readlink()
            if not fnmatch(Path(path).name, file):
                return original(*args)
            calls.append(path)
            if len(calls) == number and half:
                os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)
            if len(calls) != number or after:
                result = original(*args)
            if len(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, name, call)


class KillAtHook(Callback):
    """Kill this process with the ``number``-th call of a hook, not counting a sanity check."""

    def __init__(self, hook: str, number: int) -> None:
        self.calls, self.number = 0, number
        setattr(self, hook, self._hook)

    def _hook(self, trainer, *args) -> None:
        self.calls += not trainer.sanity_checking
        if self.calls == self.number:
            os.kill(os.getpid(), signal.SIGKILL)


def callback(name: str, **settings: Any) -> list[str]:
    """Return arguments that add one of the callbacks above."""
    return tiny.callback(f"tests.test_resume_kills.{name}", **settings)


@pytest.fixture(scope="module")
def args(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return arguments of a run with dropout, augmentation, adaptive loss and learning rate."""
    folder = tmp_path_factory.mktemp("data")
    given = few.acdc_args(
        folder, test_cases=3, batch_size=4, augmentation={"probability": 0.7} | AUGMENTATION
    )
    plateau = {"mode": "max", "patience": "0", "threshold": "0.5"}  # never better
    scheduler = [f"--model.scheduler.init_args.{key}={value}" for key, value in plateau.items()]
    return [*given, "--loss", "cals", "--epochs", str(EPOCHS),
            "--model.scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau", *scheduler]  # fmt: skip


@pytest.fixture(scope="module")
def whole(forks: Forks, args: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that nothing stopped."""
    run = tmp_path_factory.mktemp("whole") / "run"
    ended = forks.mbls("train", *args, "--run", str(run))
    assert ended.code == 0, ended.out
    return run


def run_with_kills(
    kills: list[list[str] | float], forks: Forks, args: list[str], run: Path
) -> list[Ended]:
    """Start a run and resume it until it is done; return how each of its processes ended.

    The first processes are killed by ``kills``: a callback or a number of seconds.
    """
    ended = []
    while not ended or ended[-1].code == KILLED:
        again = ["--run", str(run), "--resume", "--trainer.callbacks", "null"]
        given = again if (run / "config.yaml").is_file() else [*args, "--run", str(run)]
        kill = kills[len(ended)] if len(ended) < len(kills) else []
        if isinstance(kill, float):
            ended.append(forks.mbls("train", *given, kill_after=kill))
        else:
            ended.append(forks.mbls("train", *given, *kill))
        assert ended[-1].code in (0, KILLED), ended[-1].out
        if not (run / "config.yaml").is_file() and run.is_dir():
            shutil.rmtree(run)  # killed before it wrote its configuration
    return ended


def test_run_killed_at_each_write_of_a_checkpoint_is_resumed_to_equal_results(
    forks: Forks, args: list[str], whole: Path, tmp_path: Path
) -> None:
    kills: list[list[str] | float] = [
        callback("KillAtHook", hook="on_train_batch_end", number=3),  # before any checkpoint
        # with previous in place of last, which has not come yet
        callback("KillAtCall", target="rename", number=1, file="last.ckpt", after="true"),
        callback("KillAtCall", target="fsync", number=1, file="*.ckpt.*", half=True),
    ]
    run = tmp_path / "run"
    ended = run_with_kills(kills, forks, args, run)
    assert [each.code for each in ended] == [KILLED, KILLED, KILLED, 0]
    assert "previous.ckpt instead" in ended[2].out
    tiny.assert_equal(run, whole)
    assert not list(run.rglob("*.incoming"))  # of the last kill


def moments(seed: int, seconds: float) -> list[list[str] | float]:
    """Five moments: two at random times, one in a hook, two while files are written."""
    draw = random.Random(seed)
    hooks = ["on_validation_batch_start", "on_train_batch_end", "on_validation_end",
             "on_before_optimizer_step", "on_train_epoch_end"]  # fmt: skip
    write = {"number": draw.randint(1, 9), "half": draw.random() < 0.5}
    rename = {"number": draw.randint(1, 9), "after": draw.random() < 0.5}
    found: list[list[str] | float] = [
        draw.uniform(0, seconds),
        draw.uniform(0, seconds / 2),
        callback("KillAtHook", hook=hooks[seed % len(hooks)], number=draw.randint(1, 3)),
        callback("KillAtCall", target="fsync", **write),
        callback("KillAtCall", target="rename", **rename),
    ]
    draw.shuffle(found)
    return found


@pytest.mark.slow
def test_twenty_kills(forks: Forks, args: list[str], whole: Path, tmp_path: Path) -> None:
    begin = time.monotonic()
    assert forks.mbls("train", *args, "--run", str(tmp_path / "timed")).code == 0
    seconds = time.monotonic() - begin
    kills_survived = 0
    for seed in itertools.count():
        run = tmp_path / f"run{seed}"
        kills = moments(seed, seconds)
        ended = run_with_kills(kills, forks, args, run)
        tiny.assert_equal(run, whole)
        kills_survived += sum(each.code == KILLED for each in ended)
        if kills_survived >= 20:
            break
        assert seed < 20, "most processes ended before they were killed"


# Data processes and the cache --------------------------------------------------------------------


class KillWorkers(Callback):
    """Kill the processes that load data, as a system without memory does, after an epoch."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, self._hook)

    def _hook(self, trainer, *args) -> None:
        if trainer.current_epoch > 0:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("hook", "left"),
    [
        ("on_train_batch_start", {"best", "last"}),
        ("on_test_batch_start", {"best", "last", "previous"}),
    ],
)
def test_killed_data_process_ends_the_run(
    hook: str, left: set[str], forks: Forks, args: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    given = [*args, "--epochs", "2", "--run", str(run), "--data.init_args.num_workers", "1"]
    ended = forks.mbls("train", *given, *callback("KillWorkers", hook=hook), limit=200)
    assert ended.code == 1, ended.out
    assert "A DataLoader worker died" in ended.out
    assert "Traceback" not in ended.out
    assert {path.stem for path in (run / "checkpoints").glob("*.ckpt")} == left
    assert not (run / "test").exists()  # no results of a part of the cases


def test_damaged_cache_is_found_and_repaired(
    forks: Forks, args: list[str], whole: Path, tmp_path: Path
) -> None:
    cache = Path(next(iter(whole.parents[1].glob("data*/cache"))))
    label, image = (sorted(cache.rglob(f"{name}.npy")) for name in ("label", "image"))
    flipped, cut = bytearray(label[0].read_bytes()), image[-1].read_bytes()
    flipped[-1] ^= 1
    label[0].write_bytes(flipped)
    image[-1].write_bytes(cut[:-100])
    run = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(run / "test")
    ended = forks.mbls("evaluate", str(run))
    assert ended.code == 0, ended.out
    for name in ("label", "image"):
        assert f"{name}.npy in the cache changed since it was written" in ended.out
    tiny.assert_equal(run, whole)
    flipped[-1] ^= 1
    assert label[0].read_bytes() == flipped
    assert image[-1].read_bytes() == cut
