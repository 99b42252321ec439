"""The module in plain Python and in a notebook, and other callbacks in a run."""

import copy
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EMAWeightAveraging,
    LearningRateFinder,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities.model_summary import summarize

from mbls.config.cli import CommandLine, command_line
from mbls.losses import CrossEntropyLoss, HeuristicMarginLoss, MarginLoss
from mbls.module import SegmentationModule
from mbls.runtime.errors import CheckpointError, SettingError
from tests import tiny
from tests.blobs import BlobDataModule
from tests.test_module import Pixelwise, module

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[CommandLine, Path]:
    """A run of the command line: its objects and its best checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    cli = command_line(tiny.fit_args(*tiny.train_args(folder, epochs=1)))
    return cli, tiny.run_folder(folder) / "checkpoints" / "best.ckpt"


def test_checkpoint_loads_from_its_path_alone(run: tuple[CommandLine, Path]) -> None:
    cli, path = run
    loaded = SegmentationModule.load_from_checkpoint(path, weights_only=True)
    image = torch.randn(1, 1, 16, 16)
    assert torch.equal(loaded.eval()(image), cli.model.eval()(image))
    assert isinstance(loaded.loss, MarginLoss)
    assert loaded.loss.margin == cli.model.loss.margin
    assert (loaded.class_keys, loaded.unions) == (cli.model.class_keys, cli.model.unions)


def test_checkpoint_loads_with_the_pieces_given(run: tuple[CommandLine, Path]) -> None:
    cli, path = run
    network, loss = copy.deepcopy(cli.model.network), MarginLoss(7.0)
    for parameter in network.parameters():
        parameter.data.zero_()
    loaded = SegmentationModule.load_from_checkpoint(
        path, network=network, loss=loss, num_classes=3, weights_only=True
    )
    assert loaded.network is network
    assert loaded.loss is loss
    assert any(parameter.any() for parameter in network.parameters())


def test_module_made_in_python_loads_with_its_pieces(tmp_path: Path) -> None:
    made, fitted = module(), tiny.trainer()
    fitted.fit(made, datamodule=BlobDataModule(size=16))
    fitted.save_checkpoint(tmp_path / "own.ckpt")
    loaded = SegmentationModule.load_from_checkpoint(
        tmp_path / "own.ckpt", network=Pixelwise(), loss=CrossEntropyLoss(), num_classes=3,
        weights_only=True,
    )  # fmt: skip
    for name, value in made.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    with pytest.raises(CheckpointError, match="has 3 classes"):
        SegmentationModule.load_from_checkpoint(
            tmp_path / "own.ckpt", network=Pixelwise(), loss=CrossEntropyLoss(), num_classes=4,
            weights_only=True,
        )  # fmt: skip


def test_module_of_the_command_line_can_be_copied(run: tuple[CommandLine, Path]) -> None:
    copied = copy.deepcopy(run[0].model)
    assert copied.network is not run[0].model.network
    assert copied.optimizer(copied.parameters()).param_groups[0]["lr"] == pytest.approx(2e-3)


def test_example_input_is_traced_and_summarized() -> None:
    """Lightning hands it to the hooks of a batch, with and without a trainer."""
    built, image = module(), torch.randn(1, 1, 16, 16)
    expected = built.eval()(image)
    assert torch.equal(built.to_torchscript(method="trace", example_inputs=image)(image), expected)
    built.example_input_array = image
    assert summarize(built).out_sizes[0] == list(expected.shape)
    fitted = tiny.trainer(accumulate_grad_batches=2, enable_model_summary=True)
    fitted.fit(built, datamodule=BlobDataModule(size=16))
    assert fitted.state.finished


def test_loaders_in_place_of_a_datamodule() -> None:
    data, built, fitted = BlobDataModule(size=16), module(), tiny.trainer()
    fitted.fit(built, data.train_dataloader(), data.val_dataloader())
    by_loaders = fitted.validate(built, data.val_dataloader(), verbose=False)[0]
    assert by_loaders == fitted.validate(built, data, verbose=False)[0]
    tested = fitted.test(built, data.test_dataloader(), verbose=False)[0]
    assert tested == fitted.test(built, data, verbose=False)[0]


def test_test_returns_and_logs_its_numbers(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    logged = tiny.trainer(logger=logger).test(module(), BlobDataModule(size=16), verbose=False)[0]
    errors = {"test/ece", "test/ece_label", "test/cece", "test/nll"}
    assert {"test/dice", "test/dice/class1", "test/dice/class2"} | errors == logged.keys()
    assert logged["test/nll"] > 0
    assert "test/nll" in Path(logger.log_dir, "metrics.csv").read_text()


def test_trainer_test_of_a_run_returns_its_numbers(run: tuple[CommandLine, Path]) -> None:
    cli, path = run
    before = (path.parents[1] / "metrics.csv").read_bytes()
    logged = cli.trainer.test(cli.model, cli.datamodule, verbose=False)[0]
    assert logged["test/nll"] > 0
    assert (path.parents[1] / "test/best/metrics.json").is_file()
    assert (path.parents[1] / "metrics.csv").read_bytes() == before  # the training's


def test_weights_are_averaged(tmp_path: Path) -> None:
    args = tiny.fit_args(*tiny.train_args(tmp_path, epochs=2))
    average = "--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging"
    done = command_line([*args, average]).trainer
    assert done.state.finished
    assert torch.isfinite(done.callback_metrics["val/dice"])


def test_averaged_weights_with_a_loss_that_adapts_are_refused() -> None:
    data, average = BlobDataModule(size=16), tiny.trainer(callbacks=[EMAWeightAveraging()])
    with pytest.raises(SettingError, match=r"EMAWeightAveraging .* HeuristicMarginLoss"):
        average.fit(module(loss=HeuristicMarginLoss()), datamodule=data)
    tiny.trainer(callbacks=[EMAWeightAveraging()]).fit(module(), datamodule=data)


@pytest.mark.parametrize("callback", [LearningRateFinder, BatchSizeFinder])
def test_searches_within_a_run_are_refused(callback: type[Callback], tmp_path: Path) -> None:
    args = tiny.fit_args(*tiny.train_args(tmp_path, epochs=1))
    name = f"lightning.pytorch.callbacks.{callback.__name__}"
    with pytest.raises(SettingError, match=f"{callback.__name__} changes a setting"):
        command_line([*args, f"--trainer.callbacks+={name}"])


def test_tuner_finds_and_sets_a_learning_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # lightning writes its checkpoint there
    built, fitted = module(), tiny.trainer()
    data = BlobDataModule(size=16, train=160)
    found = Tuner(fitted).lr_find(
        built, data, num_training=30, early_stop_threshold=None, update_attr=True
    )
    assert found is not None
    assert built.lr == found.suggestion()
    fitted.fit(built, data)
    assert fitted.optimizers[0].param_groups[0]["lr"] == built.lr
