"""The best epoch, and the checkpoint and batch at which training resumes."""

from pathlib import Path

import pytest
import torch

from mbls.callbacks import find_checkpoint, last_checkpoint, read_checkpoint
from mbls.callbacks.checkpoint_files import PlainCheckpointIO
from mbls.callbacks.resumption import next_batch
from mbls.loggers.selection import chosen_epoch
from mbls.runtime.errors import CheckpointError
from tests.damage import flip_bit

NAN = float("nan")


@pytest.mark.parametrize(
    ("mode", "values", "taken"),
    [
        ("max", [0.1, 0.3, 0.3, 0.2, 0.4], [0, 1, 4]),  # a tie keeps the earlier
        ("min", [0.3, 0.4, 0.1], [0, 2]),
        ("max", [NAN, NAN, 0.0, NAN], [0, 1, 2]),  # where all are NaN, the last
    ],
)
def test_best(mode, values: list[float], taken: list[int]) -> None:
    rows = [{"x": value} for value in values]
    chosen = [chosen_epoch(rows[: n + 1], ("x", mode)) for n in range(len(rows))]
    assert [n for n, place in enumerate(chosen) if place == n] == taken


def progress(started: int, processed: int, batches: int) -> dict:
    return {
        "loops": {
            "fit_loop": {
                "epoch_progress": {"current": {"started": started, "processed": processed}},
                "epoch_loop.batch_progress": {"current": {"processed": batches}},
            }
        }
    }


@pytest.mark.parametrize(
    ("started", "processed", "batches", "wanted"),
    [(3, 2, 7, (2, 7)), (3, 3, 10, (3, 0)), (1, 0, 1, (0, 1))],
    ids=["mid-epoch", "end of an epoch", "first step"],
)
def test_next_batch_of_a_checkpoint(started, processed, batches, wanted) -> None:
    assert next_batch(progress(started, processed, batches)) == wanted


def test_checkpoints_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    with pytest.raises(CheckpointError, match=r"checkpoints/ is empty"):
        find_checkpoint(tmp_path)
    folder.mkdir()
    for name in ("best", "epoch7"):
        torch.save({"mbls": {"num_classes": 2}}, folder / f"{name}.ckpt")
    assert find_checkpoint(tmp_path) == folder / "best.ckpt"
    assert find_checkpoint(tmp_path, "epoch7") == folder / "epoch7.ckpt"
    assert find_checkpoint(tmp_path, "epoch7.ckpt") == folder / "epoch7.ckpt"
    assert find_checkpoint(tmp_path, str(folder / "best.ckpt")) == folder / "best.ckpt"
    with pytest.raises(CheckpointError, match="There are: best, epoch7"):
        find_checkpoint(tmp_path, "last")


def test_unreadable_last_falls_back_to_previous(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    last, previous = folder / "last.ckpt", folder / "previous.ckpt"
    torch.save({"mbls": {"num_classes": 2}}, last)
    assert last_checkpoint(tmp_path) == (last, None)
    last.write_bytes(b"\x00" * 10)
    with pytest.raises(CheckpointError, match=r"last\.ckpt cannot be read"):
        last_checkpoint(tmp_path)
    torch.save({"mbls": {"num_classes": 3}}, previous)
    path, fault = last_checkpoint(tmp_path)
    assert path == previous
    assert fault is not None
    assert "last.ckpt cannot be read" in fault
    assert read_checkpoint(path) == {"mbls": {"num_classes": 3}}
    previous.write_bytes(b"")
    with pytest.raises(CheckpointError) as raised:
        last_checkpoint(tmp_path)
    assert "last.ckpt cannot be read" in str(raised.value)
    assert "previous.ckpt cannot be read" in str(raised.value)
    assert "remove last.ckpt and " in str(raised.value)
    torch.save({"mbls": {"num_classes": 3}}, folder / "best.ckpt")  # not the end of an epoch
    previous.unlink()
    with pytest.raises(CheckpointError, match=r"best\.ckpt is valid .*remove last\.ckpt\.$"):
        last_checkpoint(tmp_path)


def test_checkpoint_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    """torch reads it without a warning."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    last, previous = folder / "last.ckpt", folder / "previous.ckpt"
    for path in (last, previous):
        torch.save({"mbls": {}, "state_dict": {"weight": torch.arange(100.0)}}, path)
    flip_bit(last)
    read = torch.load(last, weights_only=True)["state_dict"]["weight"]
    assert not torch.equal(read, torch.arange(100.0))
    for reader in (read_checkpoint, PlainCheckpointIO().load_checkpoint):
        with pytest.raises(CheckpointError, match=r"last\.ckpt cannot be read .*/data/0 changed"):
            reader(last)
    path, fault = last_checkpoint(tmp_path)
    assert path == previous
    assert "last.ckpt cannot be read" in str(fault)
