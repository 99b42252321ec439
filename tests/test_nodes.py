"""Errors of ranks: on nodes started by hand, on one rank alone, on all."""

import shutil
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from mbls.runtime.errors import CheckpointError
from tests import processes, tiny
from tests.forks import Ended, Forks
from tests.processes import free_port


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
    args = tiny.train_args(folder, batch_size=4)
    return ["train", *args, *tiny.callback("tests.test_nodes.Refuse", **settings)]


pytestmark = [pytest.mark.ddp, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def run(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run to resume."""
    folder = tmp_path_factory.mktemp("nodes")
    ended = forks.mbls(*tiny.fit_args(*tiny.train_args(folder, batch_size=4)))
    assert ended.code == 0, ended.out
    return tiny.run_folder(folder)


def resume(forks: Forks, run: Path, *folders: Path) -> list[Ended]:
    """Resume a run on nodes of one rank each, which see it in folders of their own."""
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    args = ["fit", "--config", str(run / "config.yaml"), "--run.resume", "true"]
    args += ["--trainer.num_nodes", str(len(folders)), "--trainer.devices", "1"]
    args += ["--trainer.max_epochs", "3"]
    return forks.finish(*(
        forks.start(*args, "--run.folder", str(folder), **env, NODE_RANK=str(node))
        for node, folder in enumerate(folders)
    ))  # fmt: skip


def test_nodes_with_different_checkpoints_are_refused(
    forks: Forks, run: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    nodes = resume(forks, run, run, other)
    for node in nodes:
        assert node.code == 1, node.out
        assert node.out.count("Rank 1 on ") == 1
        assert f"from {other}/checkpoints/last.ckpt, rank 0 from {run}" in node.out
        assert "Traceback" not in node.out


def test_checkpoint_that_one_node_cannot_read_ends_all(
    forks: Forks, run: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(run, tmp_path / "other")
    for name in ("last", "previous"):
        (other / "checkpoints" / f"{name}.ckpt").write_bytes(b"damaged")
    nodes = resume(forks, run, run, other)
    for node in nodes:
        assert node.code == 1, node.out
        assert node.out.count("Rank 1 on ") == 1
        assert "last.ckpt cannot be read as a checkpoint" in node.out
        assert "Traceback" not in node.out


def test_node_with_wrong_arguments_reports_them(forks: Forks, run: Path, tmp_path: Path) -> None:
    """It has not joined, so the first node waits as for one that is late."""
    node = forks.start(
        "fit", "--config", str(run / "config.yaml"), "--run.folder", str(tmp_path / "new"),
        "--trainer.num_nodes", "2", "--trainer.devices", "3",
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()), NODE_RANK="1",
    )  # fmt: skip
    (ended,) = forks.finish(node)
    assert ended.code == 1
    assert ended.out.count("must be a multiple of 6, got 4") == 1


def test_error_of_one_rank_ends_the_others(forks: Forks, tmp_path: Path) -> None:
    first, second = forks.finish(*forks.start_ranks(*refuse(tmp_path, rank=1)))
    assert (first.code, second.code) == (1, 1)
    assert second.out.count("Rank 1 on ") == second.out.count(": It is refused.") == 1


def test_error_of_rank_0_while_saving_ends_the_others(forks: Forks, tmp_path: Path) -> None:
    args = tiny.train_args(tmp_path, batch_size=4)
    callback = "--trainer.callbacks+=tests.test_nodes.RefuseToSave"
    first, second = forks.finish(*forks.start_ranks("train", *args, callback), limit=200)
    assert (first.code, first.out.count("ValueError: a fault of a callback")) == (1, 1), first.out
    assert second.code == 0, second.out  # the first reports it


@pytest.mark.slow
@pytest.mark.parametrize("rank", [None, 1])
def test_error_on_ranks_of_lightning_is_reported(rank: int | None, tmp_path: Path) -> None:
    done = processes.mbls(
        *refuse(tmp_path, **({} if rank is None else {"rank": rank})), "--devices", "2"
    )
    assert done.code != 0
    assert "mbls train: It is refused." in done.err or rank == 1
    assert (": It is refused." in done.err.partition("Rank 1 on ")[2]) or rank is None
    assert "Traceback" not in done.err or rank == 1
