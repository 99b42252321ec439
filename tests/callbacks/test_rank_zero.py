"""An error on one rank ends all ranks."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mbls.callbacks import Checkpoints, Diagrams, PredictionWriter, RunFolder
from mbls.commands.train import test_best as choose_and_test
from mbls.metrics import CalibrationHistogram
from mbls.module import SegmentationModule
from mbls.runtime.errors import FirstRankError
from mbls.runtime.rank_zero import on_rank_zero
from tests.blobs import BlobDataModule


def trainers() -> tuple[Any, Any]:
    """Ranks 0 and 1, of which the second receives what the first has sent."""
    sent: list[Any] = []

    def send(value: Any) -> Any:
        sent.append(value)
        return value

    common: dict[str, Any] = {"lightning_module": None}
    first = SimpleNamespace(is_global_zero=True, strategy=SimpleNamespace(broadcast=send), **common)
    received = SimpleNamespace(broadcast=lambda mine: sent.pop(0))
    return first, SimpleNamespace(is_global_zero=False, strategy=received, **common)


def test_result_of_rank_0_is_sent_to_all() -> None:
    first, second = trainers()
    assert on_rank_zero(first, lambda: "folder") == "folder"
    assert on_rank_zero(second, lambda: pytest.fail("rank 1 does no work")) == "folder"


def test_error_of_rank_0_is_raised_on_all() -> None:
    class Unsent(Exception):  # noqa: N818  (like those of libraries, it cannot be pickled)
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    def fail() -> None:
        raise Unsent(1, 2)

    first, second = trainers()
    with pytest.raises(Unsent, match="1 and 2"):
        on_rank_zero(first, fail)
    with pytest.raises(FirstRankError, match=r"Rank 0 failed \(Unsent: 1 and 2\)"):
        on_rank_zero(second, fail)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_exit_of_rank_0_is_raised_on_all(kind: type[BaseException]) -> None:
    def end() -> None:
        raise kind

    first, second = trainers()
    with pytest.raises(kind):
        on_rank_zero(first, end)
    with pytest.raises(FirstRankError, match=rf"Rank 0 failed \({kind.__name__}\)"):
        on_rank_zero(second, end)


class Broken:
    """A logger whose file is damaged."""

    def resume(self, step: int) -> None:
        raise KeyError("step")


def disk_error(*_: object, **__: object) -> None:
    raise RuntimeError("PytorchStreamWriter failed writing file")


def resume(trainer: Any) -> None:
    trainer.loggers, trainer.global_step = [Broken()], 3
    RunFolder(resume=True).on_train_start(trainer, None)


def save(trainer: Any) -> None:
    folder = RunFolder()
    folder._path = Path("run")
    trainer.callbacks = [folder]
    trainer.strategy.barrier = lambda: None  # where the others wait
    trainer.save_checkpoint = disk_error if trainer.is_global_zero else lambda *_, **__: None
    Checkpoints()._save(trainer, ["last"])


def draw(trainer: Any) -> None:
    trainer.loggers, trainer.current_epoch = [SimpleNamespace(log_figure=print)], 0
    trainer.state, trainer.sanity_checking = SimpleNamespace(fn="fit"), False
    trainer.callbacks, trainer.datamodule = [], None  # drawing needs them
    module = SegmentationModule.__new__(SegmentationModule)
    torch.nn.Module.__init__(module)
    module.val_histogram = CalibrationHistogram(2)
    module.val_histogram.compute = lambda: None
    Diagrams(every_n_epochs=1).on_validation_epoch_end(trainer, module)


def choose(trainer: Any) -> None:
    folder = RunFolder()
    folder._path = Path("run")  # which has no checkpoint
    trainer.callbacks = [folder]
    choose_and_test(SimpleNamespace(trainer=trainer))


@pytest.mark.parametrize("step", [resume, save, draw, choose])
def test_error_on_rank_0_is_raised_on_the_others(step: Callable[[Any], None]) -> None:
    first, second = trainers()
    with pytest.raises(Exception) as raised:  # noqa: PT011  (of any kind)
        step(first)
    assert not isinstance(raised.value, FirstRankError)
    with pytest.raises(FirstRankError, match=rf"Rank 0 failed \({type(raised.value).__name__}"):
        step(second)


def test_unwritable_output_folder_of_one_node_is_sent_to_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    sent: list[Any] = []
    monkeypatch.setattr(
        "torch.distributed.all_gather_object", lambda parts, mine: sent.append(mine)
    )
    monkeypatch.setattr("mbls.runtime.rank_zero.rank_prefix", lambda: "Rank 1 on node7: ")
    trainer: Any = SimpleNamespace(
        world_size=2, is_global_zero=False, global_rank=1, datamodule=BlobDataModule()
    )
    PredictionWriter(output=tmp_path / "file" / "out").setup(trainer, None, "predict")
    assert re.match(r"Rank 1 on node7: The output folder \S+ cannot be written", str(sent[0]))
