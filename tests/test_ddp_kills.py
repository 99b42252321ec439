"""Ranks that are killed: the others end soon, and the resumed run ends with the same bits."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from tests import few, processes, tiny
from tests.forks import Forks

pytestmark = [pytest.mark.ddp, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SOON = 20.0  # seconds; Lightning checks its ranks every five


class KillRank(Callback):
    """Kill a rank in the second epoch.

    Args:
        rank: Which one.
        file: Touched just before.
        hook: Where.
        busy: Whether the others are then busy for a minute, and do not wait for it.
    """

    def __init__(self, rank: int, file: Path, hook: str, *, busy: bool = False) -> None:
        self.rank, self.file, self.busy, self.calls = rank, Path(file), busy, 0
        setattr(self, hook, self._hook)

    def _hook(self, trainer, *args) -> None:
        self.calls += trainer.current_epoch == 1
        if self.calls != 2:
            return
        if trainer.global_rank == self.rank:
            self.file.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.busy:
            time.sleep(60)


def kill_rank(rank: int, file: Path, hook: str, *, busy: bool = False) -> list[str]:
    """Return arguments that add the callback above."""
    settings = {"rank": rank, "file": file, "hook": hook, "busy": str(busy).lower()}
    return tiny.callback("tests.test_ddp_kills.KillRank", **settings)


KILLS = {
    "rank 1, in an epoch": (1, "on_train_batch_end", False),
    "rank 0, in a validation, rank 1 busy": (0, "on_validation_batch_start", True),
}


@dataclass(frozen=True)
class Kills:
    """How each killed run ended, after how many seconds, and the folders of all and of a whole."""

    done: dict[str, processes.Done]
    seconds: dict[str, float]
    runs: dict[str, Path]
    whole: Path


@pytest.fixture(scope="module")
def kills(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Kills:
    """Runs on two ranks with dropout and augmentation, killed and resumed, and one that was not."""
    folder = tmp_path_factory.mktemp("kills")
    augmentation = {"probability": 0.7, "flip": 0.5, "rotation": 20.0, "noise": 0.1}
    args = ["train", *few.acdc_args(folder, test_cases=3, augmentation=augmentation)]
    args += ["--loss", "cals", "--epochs", "3", "--devices", "2"]
    done, seconds, runs = {}, {}, {}
    for number, (name, (rank, hook, busy)) in enumerate(KILLS.items()):
        runs[name], file = folder / f"run{number}", folder / f"killed{number}"
        kill = kill_rank(rank, file, hook, busy=busy)
        process = processes.start(*args, "--run", str(runs[name]), *kill)
        done[name] = processes.finish(process)  # the end of all, which share its output
        seconds[name] = time.time() - file.stat().st_mtime
        assert (runs[name] / "checkpoints/last.ckpt").is_file()
    forks.ranks(*args, "--run", str(folder / "whole"))
    for run in runs.values():
        forks.ranks("train", "--run", str(run), "--resume", "--trainer.callbacks", "null")
    return Kills(done, seconds, runs, folder / "whole")


@pytest.mark.parametrize("name", KILLS)
def test_killed_rank_ends_the_others_and_the_resumed_run_is_equal(name: str, kills: Kills) -> None:
    assert kills.done[name].code != 0
    assert kills.seconds[name] < SOON
    tiny.assert_equal(kills.runs[name], kills.whole)


def test_killed_rank_ends_those_started_without_a_launcher(forks: Forks, tmp_path: Path) -> None:
    """Each waits for another: the first that ends must end the next."""
    args = tiny.train_args(tmp_path, train=12, batch_size=6)
    kill = kill_rank(0, tmp_path / "killed", "on_train_batch_end")
    ended = forks.finish(*forks.start_ranks("train", *args, *kill, world=3))
    assert time.time() - (tmp_path / "killed").stat().st_mtime < SOON
    assert [each.code for each in ended] == [-9, 1, 1]
