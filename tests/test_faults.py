"""What goes wrong in a run, in real processes: signals, values that are not finite, checkpoints."""

import os
import pickle
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mbls.cli import main
from mbls.loggers.metrics_csv import read_rows
from tests import tiny
from tests.damage import flip_bit
from tests.forks import Forks

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sound run of two epochs."""
    folder = tmp_path_factory.mktemp("sound")
    assert tiny.fit(*tiny.words(folder)) == 0
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

    def __init__(self, forks: Forks, *words: str) -> None:
        self.forks, self.ranks = forks, forks.start_ranks("train", *words)
        self.first = self.ranks[0]

    def send_all(self, number: int) -> None:
        os.killpg(self.forks.parent.pid, number)

    def finish(self) -> tuple[int, str]:
        ended = self.forks.finish(*self.ranks)
        return ended[0].code, "".join(each.out for each in ended)


class Launched:
    """Two ranks of which lightning starts the second."""

    def __init__(self, forks: Forks, *words: str) -> None:
        self.first = tiny.start("train", *words, "--devices", "2")

    def send_all(self, number: int) -> None:
        os.killpg(self.first.pid, number)

    def finish(self) -> tuple[int, str]:
        done = tiny.finish(self.first)
        return done.code, done.err


@pytest.mark.ddp
@pytest.mark.parametrize("job", [Forked, pytest.param(Launched, marks=pytest.mark.slow)])
def test_signals_to_two_ranks_and_the_way_on(
    job: type[Forked | Launched], forks: Forks, tmp_path: Path
) -> None:
    words = tiny.words(tmp_path, train=40, num_workers=1, epochs=1000)
    run = tiny.run_folder(tmp_path)
    ranks = job(forks, *words)
    tiny.wait_for(checkpoint(run, "previous").exists, ranks.first)
    ranks.send_all(signal.SIGINT)  # as a terminal does, to data workers too
    stopped = [ranks.finish()]
    step = torch.load(checkpoint(run), weights_only=True)["global_step"]

    again = ["--run", str(run), "--resume"]
    ranks = job(forks, *again, "--trainer.num_sanity_val_steps", "0")
    before = written_at(checkpoint(run))
    tiny.wait_for(lambda: written_at(checkpoint(run)) > before, ranks.first)
    ranks.first.send_signal(signal.SIGTERM)  # to rank 0 alone, as a batch system may
    stopped.append(ranks.finish())
    for (code, told), wanted, way_out in zip(
        stopped, (130, 143), ("a second signal", "Ctrl-C"), strict=True
    ):
        assert code == wanted, told
        assert "Traceback" not in told
        assert told.count(f"; {way_out} ends at once.") == 1
        assert told.count("Stopped in epoch") == 1
        assert told.count(f"mbls train --run {run} --resume") == 1

    state = torch.load(checkpoint(run), weights_only=True)
    assert state["global_step"] > step
    place = f"Stopped in epoch {state['epoch'] + 1}, step {state['global_step']}."
    assert place in stopped[-1][1]  # counted from 1, as in the lines of the log
    end = state["epoch"] + 2
    assert tiny.fit(*again, "--devices", "1", "--epochs", str(end)) == 0
    rows = read_rows(run / "metrics.csv")
    assert [int(row["epoch"]) for row in rows] == list(range(end))
    assert all("train/loss" in row and "val/dice" in row for row in rows)
    best = max(rows, key=lambda row: float(row["val/dice"]))
    assert torch.load(checkpoint(run, "best"), weights_only=True)["epoch"] == int(best["epoch"])


def test_a_second_signal_ends_at_once(forks: Forks, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    run = forks.start("train", *tiny.words(tmp_path), *tiny.callback("Hang", file=begun))
    tiny.wait_for(begun.exists, run)
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
def test_a_fault_on_the_first_rank_ends_both(tmp_path: Path) -> None:
    words = [*tiny.words(tmp_path), "--devices", "2"]
    done = tiny.mbls("train", *words, *tiny.callback("Fail"), limit=120)
    assert done.code == 1
    assert done.err.count("Traceback") == done.err.count("KeyError: 'a fault of the code'") == 1


# Values that are not finite --------------------------------------------------------------------


def test_a_loss_that_becomes_nan_names_its_cases(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = tiny.words(tmp_path, bad=5)
    assert tiny.fit(*words) == 1
    told = capfd.readouterr().err
    assert "mbls fit: The loss became NaN or infinite in epoch 1, step " in told
    assert "case005" in told
    assert "Traceback" not in told
    assert not list((tiny.run_folder(tmp_path)).glob("checkpoints/*.ckpt"))


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        (0, "The loss became NaN or infinite in epoch 2, step 4; the batch holds case"),
        (1, "A weight became NaN or infinite by epoch 2, step 4, under a loss that was finite"),
    ],
    ids=["mid-epoch", "last batch"],
)
def test_weights_that_blow_up_spoil_no_checkpoint(
    batch: int, told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    poison = tiny.callback("Poison", epoch=1, batch=batch)
    assert tiny.fit(*tiny.words(tmp_path, epochs=3), *poison) == 1
    assert told in capfd.readouterr().err
    run = tiny.run_folder(tmp_path)
    assert_finite(run)
    for name in ("best", "last"):
        assert torch.load(checkpoint(run, name), weights_only=True)["global_step"] == 2


@pytest.mark.ddp
def test_a_nan_on_one_rank_stops_both(forks: Forks, tmp_path: Path) -> None:
    ranks = forks.start_ranks("train", *tiny.words(tmp_path, bad=5, train=16))
    first, second = forks.finish(*ranks)
    assert (first.code, second.code) == (1, 0)  # lightning would kill the first after the second
    assert first.out.count("The loss became NaN or infinite") == 1
    assert "case005" in first.out
    assert "became NaN" not in second.out
    assert "Traceback" not in first.out + second.out
    assert not list((tiny.run_folder(tmp_path)).glob("checkpoints/*.ckpt"))


# Checkpoints -----------------------------------------------------------------------------------


class Evil:
    """Runs code when it is unpickled by a careless reader."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


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
    ("write", "told"),
    [
        (lambda path, sound: torch.save({"state_dict": {}}, path), "was not written by mbls"),
        (lambda path, sound: path.write_text("no checkpoint\n"), "cannot be read as a checkpoint"),
        (
            lambda path, sound: path.write_bytes(sound.read_bytes()[:20000]),
            "cannot be read as a checkpoint",
        ),
        (flipped, "changed since it was written"),
        (
            lambda path, sound: path.write_bytes(pickle.dumps(Evil(path.with_name("ran")))),
            "cannot be read as a checkpoint",
        ),
        (
            lambda path, sound: torch.save({"mbls": Evil(path.with_name("ran"))}, path),
            "cannot be read as a checkpoint",
        ),
        (
            spoil(lambda content: content["mbls"].update(num_classes=5)),
            "The checkpoint's network has 5 classes ['background', 'ring', 'core'], the data 3",
        ),
        (spoil(rename_weight), "of another network or loss: 2 weights differ in name or shape"),
    ],
    ids=["not ours", "text", "truncated", "bit", "pickle", "code in a zip", "classes", "network"],
)
def test_a_checkpoint_that_does_not_fit(
    write: Callable[[Path, Path], None],
    told: str,
    run: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "given.ckpt"
    write(path, checkpoint(run))
    assert main(["evaluate", str(run), "--ckpt", str(path), "--tag", "given"]) == 1
    error = capfd.readouterr().err
    assert told in error
    assert "Traceback" not in error
    assert not (tmp_path / "ran").exists()
    assert not (run / "test").exists()


def test_a_checkpoint_that_is_not_there(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--ckpt", "bets"]) == 1
    told = capfd.readouterr().err
    assert f"No checkpoint 'bets' for run {run}. There are: best, last, previous." in told


def test_an_unsafe_file_given_to_fit_is_not_run(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "given.ckpt"
    path.write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    assert main(["fit", "--config", str(run / "config.yaml"), "--ckpt_path", str(path)]) == 1
    assert "cannot be read as a checkpoint" in capfd.readouterr().err
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_last_falls_back_to_previous(
    damage: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert tiny.fit(*tiny.words(tmp_path)) == 0
    run = tiny.run_folder(tmp_path)
    before = read_rows(run / "metrics.csv")
    sound = torch.load(checkpoint(run), weights_only=True)["state_dict"]
    last = checkpoint(run)
    last.write_bytes(last.read_bytes()[:20000]) if damage == "truncated" else last.unlink()
    assert tiny.fit("--run", str(run), "--resume") == 0
    told = capfd.readouterr().out
    assert f"Resuming from {checkpoint(run, 'previous')} instead" in told
    again = torch.load(checkpoint(run), weights_only=True)["state_dict"]
    assert all(torch.equal(again[name], sound[name]) for name in sound)
    assert read_rows(run / "metrics.csv") == before
