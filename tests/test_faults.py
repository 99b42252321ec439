"""Faults of a run, in real processes: signals, values that are not finite, checkpoints."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mbls.loggers.metrics_csv import read_rows
from tests import processes, tiny
from tests.damage import flip_bit
from tests.forks import Forks

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a sound run of two epochs."""
    folder = tmp_path_factory.mktemp("sound")
    assert tiny.fit(*tiny.train_args(folder)) == 0
    return tiny.run_folder(folder)


def checkpoint(run: Path, name: str = "last") -> Path:
    return run / "checkpoints" / f"{name}.ckpt"


def written_at(path: Path) -> float:
    """When a file was written; 0 while it is renamed."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def assert_finite(run: Path) -> None:
    for path in (run / "checkpoints").glob("*"):
        weights = torch.load(path, weights_only=True)["state_dict"]
        assert all(bool(weight.isfinite().all()) for weight in weights.values()), path


# Signals ---------------------------------------------------------------------------------------


class Forked:
    """Two ranks that are there from the start, as torchrun makes them."""

    def __init__(self, forks: Forks, *args: str) -> None:
        self.forks, self.ranks = forks, forks.start_ranks("train", *args)
        self.first = self.ranks[0]

    def send_all(self, number: int) -> None:
        os.killpg(self.forks.parent.pid, number)

    def finish(self) -> tuple[int, str]:
        ended = self.forks.finish(*self.ranks)
        return ended[0].code, "".join(each.out for each in ended)


class Launched:
    """Two ranks of which lightning starts the second."""

    def __init__(self, forks: Forks, *args: str) -> None:
        self.first = processes.start("train", *args, "--devices", "2")

    def send_all(self, number: int) -> None:
        os.killpg(self.first.pid, number)

    def finish(self) -> tuple[int, str]:
        done = processes.finish(self.first)
        return done.code, done.err


@pytest.mark.ddp
@pytest.mark.parametrize("job", [Forked, pytest.param(Launched, marks=pytest.mark.slow)])
def test_two_ranks_stop_at_signals_and_are_resumed(
    job: type[Forked | Launched], forks: Forks, tmp_path: Path
) -> None:
    args = tiny.train_args(tmp_path, train=40, num_workers=1, epochs=1000)
    run = tiny.run_folder(tmp_path)
    ranks = job(forks, *args)
    processes.wait_for(checkpoint(run, "previous").exists, ranks.first)
    ranks.send_all(signal.SIGINT)  # as a terminal does, to data workers too
    stopped = [ranks.finish()]
    step = tiny.state(run)["global_step"]

    again = ["--run", str(run), "--resume"]
    ranks = job(forks, *again, "--trainer.num_sanity_val_steps", "0")
    before = written_at(checkpoint(run))
    processes.wait_for(lambda: written_at(checkpoint(run)) > before, ranks.first)
    ranks.first.send_signal(signal.SIGTERM)  # to rank 0 alone, as a batch system may
    stopped.append(ranks.finish())
    for (code, printed), wanted, way_out in zip(
        stopped, (130, 143), ("a second signal", "Ctrl-C"), strict=True
    ):
        assert code == wanted, printed
        assert "Traceback" not in printed
        assert printed.count(f"; {way_out} ends at once.") == 1
        assert printed.count("Stopped in epoch") == 1
        assert printed.count(f"mbls train --run {run} --resume") == 1

    state = tiny.state(run)
    assert state["global_step"] > step
    place = f"Stopped in epoch {state['epoch'] + 1}, step {state['global_step']}."
    assert place in stopped[-1][1]  # counted from 1, as in the lines of the log
    end = state["epoch"] + 2
    assert tiny.fit(*again, "--devices", "1", "--epochs", str(end)) == 0
    rows = read_rows(run / "metrics.csv")
    assert [int(row["epoch"]) for row in rows] == list(range(end))
    assert all("train/loss" in row and "val/dice" in row for row in rows)
    best = max(rows, key=lambda row: float(row["val/dice"]))
    assert tiny.state(run, "best")["epoch"] == int(best["epoch"])


def test_second_signal_ends_at_once(forks: Forks, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    run = forks.start("train", *tiny.train_args(tmp_path), *tiny.callback("Hang", file=begun))
    processes.wait_for(begun.exists, run)
    run.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert run.poll() is None
    run.send_signal(signal.SIGINT)
    (ended,) = forks.finish(run, limit=10)
    assert ended.code == -signal.SIGINT
    assert "a second signal ends at once" in ended.out
    assert "Traceback" not in ended.out


@pytest.mark.ddp
@pytest.mark.slow
def test_error_of_rank_0_ends_both(tmp_path: Path) -> None:
    args = [*tiny.train_args(tmp_path), "--devices", "2"]
    done = processes.mbls("train", *args, *tiny.callback("Fail"), limit=120)
    assert done.code == 1
    assert done.err.count("Traceback") == done.err.count("KeyError: 'a fault of the code'") == 1


# Values that are not finite --------------------------------------------------------------------


def test_nan_loss_names_its_cases(tmp_path: Path, refusal: Callable[..., str]) -> None:
    error = refusal("train", *tiny.train_args(tmp_path, bad=5))
    assert "mbls train: The loss became NaN or infinite in epoch 1, step" in error
    assert "case005" in error
    assert not list((tiny.run_folder(tmp_path)).glob("checkpoints/*.ckpt"))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (0, "loss became NaN or infinite in epoch 2, step 4; cases of the batch: case"),
        (1, "weight became NaN or infinite by epoch 2, step 4"),
    ],
    ids=["mid-epoch", "last batch"],
)
def test_infinite_weights_are_in_no_checkpoint(
    batch: int, message: str, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    poison = tiny.callback("Poison", epoch=1, batch=batch)
    assert message in refusal("train", *tiny.train_args(tmp_path, epochs=3), *poison)
    run = tiny.run_folder(tmp_path)
    assert_finite(run)
    for name in ("best", "last"):
        assert tiny.state(run, name)["global_step"] == 2


@pytest.mark.ddp
def test_nan_on_one_rank_stops_both(forks: Forks, tmp_path: Path) -> None:
    ranks = forks.start_ranks("train", *tiny.train_args(tmp_path, bad=5, train=16))
    first, second = forks.finish(*ranks)
    assert (first.code, second.code) == (1, 0)  # lightning would kill the first after the second
    assert first.out.count("The loss became NaN or infinite") == 1
    assert "case005" in first.out
    assert "became NaN" not in second.out
    assert "Traceback" not in first.out + second.out
    assert not list((tiny.run_folder(tmp_path)).glob("checkpoints/*.ckpt"))


# Checkpoints -----------------------------------------------------------------------------------


def spoil(change: Callable[[dict[str, Any]], None]) -> Callable[[Path, Path], None]:
    def write(path: Path, sound: Path) -> None:
        content = torch.load(sound, weights_only=True)
        change(content)
        torch.save(content, path)

    return write


def flipped(path: Path, sound: Path) -> None:
    path.write_bytes(sound.read_bytes())
    flip_bit(path)


def rename_weight(content: dict[str, Any]) -> None:
    weights = content["state_dict"]
    weights["network.other"] = weights.pop(next(iter(weights)))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path, sound: torch.save({"state_dict": {}}, path), "was not written by mbls"),
        (lambda path, sound: path.write_text("no checkpoint\n"), "cannot be read as a checkpoint"),
        (lambda path, sound: path.write_bytes(sound.read_bytes()[:20000]),
         "cannot be read as a checkpoint"),
        (flipped, "changed since it was written"),
        (spoil(lambda content: content["mbls"].update(num_classes=5)),
         "5 classes ['background', 'ring', 'core'], the data 3"),
        (spoil(rename_weight), "another network or loss: 2 weights differ"),
    ],
    ids=["not ours", "text", "truncated", "bit", "classes", "network"],
)  # fmt: skip
def test_unfit_checkpoint_is_refused(
    write: Callable[[Path, Path], None], message: str, run: Path, tmp_path: Path,
    refusal: Callable[..., str],
) -> None:  # fmt: skip
    path = tmp_path / "given.ckpt"
    write(path, checkpoint(run))
    assert message in refusal("evaluate", str(run), "--ckpt", str(path), "--tag", "given")
    assert not (run / "test").exists()


def test_missing_checkpoint_is_named(run: Path, refusal: Callable[..., str]) -> None:
    error = refusal("evaluate", str(run), "--ckpt", "bets")
    assert f"'bets' for run {run}" in error
    assert "best, last, previous" in error
