"""A disk that is full or read-only: the message, what is left, and resuming."""

import errno
import os
import resource
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from mbls.callbacks import MetricsCSV, PredictionWriter, run_folder
from mbls.callbacks.checkpoint_files import PlainCheckpointIO
from mbls.runtime.errors import OutputError
from mbls.runtime.files import incoming_name, replace_file, replace_files
from tests import processes, tiny
from tests.blobs import BlobDataModule

pytestmark = pytest.mark.filterwarnings("ignore")
FULL = Path("/dev/full")  # the kernel's own full disk: every write to it fails with ENOSPC
needs_full = pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")


class Spoil(Callback):
    """Make the disk of a file of the run full when the validation of an epoch begins.

    Args:
        file: Its name in the run folder.
        epoch: When.
    """

    def __init__(self, file: str, epoch: int) -> None:
        self.file, self.epoch = file, epoch

    def on_validation_start(self, trainer, pl_module) -> None:
        here = trainer.is_global_zero and not trainer.sanity_checking
        if not here or trainer.current_epoch != self.epoch:
            return
        path = run_folder(trainer) / self.file
        incoming_name(incoming_name(path)).symlink_to(FULL)  # a checkpoint is renamed twice


def spoil(**settings: Any) -> list[str]:
    return tiny.callback("tests.test_disk.Spoil", **settings)


def step(run: Path, name: str) -> int:
    return int(tiny.state(run, name)["global_step"])


@needs_full
def test_full_disk_leaves_the_checkpoints_and_the_run_is_resumed(
    tmp_path: Path, refusal: Callable[..., str]
) -> None:
    args = [*tiny.train_args(tmp_path, epochs=3), "--checkpoint.mode", "min"]
    run = tiny.run_folder(tmp_path)
    error = refusal("train", *args, *spoil(file="checkpoints/last.ckpt", epoch=1))
    assert "last.ckpt cannot be written (No space left on device)" in error
    assert "make train RUN=FOLDER RESUME=1" in error
    assert step(run, "last") == 2
    assert not list(run.rglob("*.incoming"))
    assert tiny.resume(run) == 0
    assert (step(run, "last"), step(run, "previous")) == (6, 4)


@needs_full
@pytest.mark.ddp
@pytest.mark.slow
def test_both_ranks_end_when_rank_0_cannot_write(tmp_path: Path) -> None:
    args = [*tiny.train_args(tmp_path, epochs=3, train=16), "--devices", "2"]
    file = "checkpoints/last.ckpt"
    done = processes.mbls("train", *args, *spoil(file=file, epoch=1), limit=400)
    assert done.code == 1
    assert done.err.count("last.ckpt cannot be written (No space left on device)") == 1
    assert "Traceback" not in done.err
    assert step(tiny.run_folder(tmp_path), "last") == 4


@pytest.mark.parametrize("room", [0, 10_000])
def test_failed_write_leaves_the_earlier_checkpoint(room: int, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    PlainCheckpointIO().save_checkpoint({"weights": torch.zeros(3)}, path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"a\.ckpt cannot be written \(File too large"):
            PlainCheckpointIO().save_checkpoint({"weights": torch.zeros(30_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["a.ckpt"]


def test_checkpoint_is_written_without_a_copy_of_the_state(tmp_path: Path) -> None:
    state = {"weights": torch.zeros(2_500_000)}
    tracemalloc.start()
    try:
        PlainCheckpointIO().save_checkpoint(state, tmp_path / "a.ckpt")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000  # bytes, of 10 million


@needs_full
@pytest.mark.parametrize("file", ["bins.npz", "metrics.json"])
def test_failed_write_leaves_no_results(
    file: str, tmp_path_factory: pytest.TempPathFactory, refusal: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = tmp_path_factory.getbasetemp() / "tested"
    if not folder.exists():
        folder.mkdir()
        assert tiny.fit(*tiny.train_args(folder)) == 0
    run = tiny.run_folder(folder)

    @contextmanager
    def full(results: Path, **kw: str) -> Iterator[Path]:
        with replace_files(results, **kw) as place:
            (place / file).symlink_to(FULL)
            yield place

    monkeypatch.setattr("mbls.callbacks.results.replace_files", full)
    error = refusal("evaluate", str(run), "--tag", file)
    assert f"test/{file} cannot be written (No space left on device)" in error
    assert [path.name for path in (run / "test" / file).iterdir()] == ["lock"]


def test_failed_write_leaves_no_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("mbls.runtime.files.os.fsync", full)
    writer = PredictionWriter(output=tmp_path)
    data = BlobDataModule(size=64)
    trainer: Any = SimpleNamespace(datamodule=data, world_size=1)
    batch = {"case": ["case"], "scored": torch.tensor([True])}
    with pytest.raises(OutputError, match=r"case\.nii\.gz cannot be written \(No space left"):
        writer.write_on_batch_end(trainer, None, torch.rand(1, 3, 64, 64, 3), None, batch, 0, 0)
    assert not list(tmp_path.iterdir())


@needs_full
def test_metrics_csv_is_written_when_there_is_room_again(tmp_path: Path) -> None:
    logger = MetricsCSV()
    logger.folder = tmp_path
    logger.log_metrics({"epoch": 0, "x": 1.0}, 1)
    incoming_name(tmp_path / "metrics.csv").symlink_to(FULL)
    logger.save()  # rank 0 alone calls it
    assert not (tmp_path / "metrics.csv").exists()
    incoming_name(tmp_path / "metrics.csv").symlink_to(FULL)
    with pytest.raises(OutputError, match=r"metrics\.csv cannot be written"):
        logger.write()
    logger.write()
    assert "1.0" in (tmp_path / "metrics.csv").read_text()


@needs_full
@pytest.mark.parametrize("spoiled", [lambda path: path.symlink_to(FULL), lambda path: path.mkdir()])
def test_replaced_file_is_complete_or_as_before(
    spoiled: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    replace_file(path, b"old")
    spoiled(incoming_name(tmp_path / "a.json"))
    with pytest.raises(OutputError, match=r"a\.json cannot be written"):
        replace_file(path, b"new" * 100)
    assert path.read_bytes() == b"old"
