"""Errors of ranks: on nodes started by hand, on one rank alone, on all."""

import shutil
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from mbls.runtime.errors import CheckpointError
from tests import tiny
from tests.forks import Ended, Forks
from tests.ranks import free_port


class Refuse(Callback):
    """Raise an error that is not shared, on one rank or on all."""

    def __init__(self, rank: int | None = None) -> None:
        self.rank = rank

    def on_train_start(self, trainer, pl_module) -> None:
        if self.rank in (None, trainer.global_rank):
            raise CheckpointError("It is refused.")
        trainer.strategy.barrier()


class RefuseToSave(Callback):
    """Raise while a checkpoint is made, on rank 0 alone."""

    def on_save_checkpoint(self, trainer, pl_module, checkpoint) -> None:
        if trainer.is_global_zero:
            raise ValueError("a fault of a callback")


def refuse(folder: Path, **settings: int) -> list[str]:
    words = [f"--trainer.callbacks.init_args.{key}={value}" for key, value in settings.items()]
    callback = "--trainer.callbacks+=tests.test_nodes.Refuse"
    return ["train", *tiny.words(folder, batch_size=4), callback, *words, "--devices", "2"]


pytestmark = [pytest.mark.ddp, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def run(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that can go on."""
    folder = tmp_path_factory.mktemp("nodes")
    ended = forks.mbls(*tiny.fit_words(*tiny.words(folder, batch_size=4)))
    assert ended.code == 0, ended.out
    return tiny.run_folder(folder)


def resume(forks: Forks, run: Path, *folders: Path) -> list[Ended]:
    """Resume a run on nodes of one rank each, which see it in folders of their own."""
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    words = ["fit", "--config", str(run / "config.yaml"), "--run.resume", "true"]
    words += ["--trainer.num_nodes", str(len(folders)), "--trainer.devices", "1"]
    words += ["--trainer.max_epochs", "3"]
    return forks.finish(*(
        forks.start(*words, "--run.folder", str(folder), **env, NODE_RANK=str(node))
        for node, folder in enumerate(folders)
    ))  # fmt: skip


def test_nodes_that_would_go_on_from_two_states_do_not(
    forks: Forks, run: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    nodes = resume(forks, run, run, other)
    for node in nodes:
        assert node.code == 1, node.out
        assert node.out.count("Rank 1 on ") == 1
        assert f"It would resume from {other}/checkpoints/last.ckpt, rank 0 from {run}" in node.out
        assert "Traceback" not in node.out


@pytest.mark.parametrize("fault", ["missing", "damaged"])
def test_what_one_node_cannot_read_ends_all_and_is_told(
    fault: str, forks: Forks, run: Path, tmp_path: Path
) -> None:
    other, told = tmp_path / "other", "other does not exist."
    if fault == "damaged":
        shutil.copytree(run, other)
        for name in ("last", "previous"):
            (other / "checkpoints" / f"{name}.ckpt").write_bytes(b"damaged")
        told = "last.ckpt cannot be read as a checkpoint"
    nodes = resume(forks, run, run, other)
    for node in nodes:
        assert node.code == 1, node.out
        assert node.out.count("Rank 1 on ") == node.out.count(told) == 1
        assert "Traceback" not in node.out


def test_a_node_with_other_words_says_what_is_wrong_with_them(
    forks: Forks, run: Path, tmp_path: Path
) -> None:
    """It has not joined: the first is not told, and waits as long as for a node that is late."""
    node = forks.start(
        "fit", "--config", str(run / "config.yaml"), "--run.folder", str(tmp_path / "new"),
        "--trainer.num_nodes", "2", "--trainer.devices", "3",
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()), NODE_RANK="1",
    )  # fmt: skip
    (ended,) = forks.finish(node)
    assert ended.code == 1
    assert ended.out.count("must be a multiple of 6, got 4") == 1


def test_a_rank_that_fails_alone_reports_it_and_ends_the_others(
    forks: Forks, tmp_path: Path
) -> None:
    first, second = forks.finish(*forks.start_ranks(*refuse(tmp_path, rank=1)))
    assert (first.code, second.code) == (1, 1)
    assert second.out.count("Rank 1 on ") == second.out.count(": It is refused.") == 1


def test_no_rank_waits_for_one_that_could_not_make_a_checkpoint(
    forks: Forks, tmp_path: Path
) -> None:
    words = tiny.words(tmp_path, batch_size=4)
    callback = "--trainer.callbacks+=tests.test_nodes.RefuseToSave"
    first, second = forks.finish(*forks.start_ranks("train", *words, callback), limit=200)
    assert (first.code, first.out.count("ValueError: a fault of a callback")) == (1, 1), first.out
    assert second.code == 0, second.out  # the first reports it


@pytest.mark.slow
@pytest.mark.parametrize("rank", [None, 1])
def test_an_error_on_lightning_s_ranks_is_reported(rank: int | None, tmp_path: Path) -> None:
    done = tiny.mbls(*refuse(tmp_path, **({} if rank is None else {"rank": rank})))
    assert done.code != 0
    assert "mbls train: It is refused." in done.err or rank == 1
    assert (": It is refused." in done.err.partition("Rank 1 on ")[2]) or rank is None
    assert "Traceback" not in done.err or rank == 1
