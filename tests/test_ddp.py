"""One process or two: the same digits to the last bit, one folder, each line printed once."""

import json
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from monai.networks.nets import UNet

from mbls.cli import main
from mbls.loggers.metrics_csv import read_rows
from mbls.loggers.selection import RULES
from tests import few_acdc, ranks, tiny
from tests.datamodules.conftest import blobs, save
from tests.losses.every_loss import build

pytestmark = [
    pytest.mark.ddp,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("no_figures"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tiny.Done]:
    """The folder of a run on two ranks, with an odd number of test cases, and what it printed."""
    folder = tmp_path_factory.mktemp("ddp")
    words = [*few_acdc.words(folder, test_cases=3), "--checkpoint.keep", "true"]
    done = tiny.mbls("train", *words, "--devices", "2")
    assert done.code == 0, done.err
    return tiny.run_folder(folder), done


@dataclass(frozen=True)
class Later:
    """What two ranks that were not started by lightning made of the run, and trained."""

    done: list[tiny.Done]
    one_case: tuple[dict[str, bytes], dict[str, np.ndarray]]
    predictions: Path
    sgd: Path


SGD = [  # nothing in it depends on how a batch is divided: no dropout, no batch statistics
    "--model.optimizer", "torch.optim.SGD", "--model.optimizer.init_args.lr", "0.01",
    "--model.network.init_args.dropout", "0.0", "--epochs", "2", "--loss", "cals",
    "--model.loss.init_args.margin", "0.5",
    "--data.init_args.patch_size=[28,28]",  # padding, which is ignored, differs between ranks
]  # fmt: skip


@pytest.fixture(scope="module")
def later(trained: tuple[Path, tiny.Done], tmp_path_factory: pytest.TempPathFactory) -> Later:
    run, _ = trained
    folder = tmp_path_factory.mktemp("later")
    (folder / "in").mkdir()
    for number in range(3):
        save(folder / "in" / f"case {number}.nii.gz", blobs(number)[0])
    words = few_acdc.words(folder)
    commands = [
        ["evaluate", str(run), "--data.init_args.test_cases", "1", "--tag", "one",
         "--trainer.devices", "2"],
        ["predict", "--run", str(run), "--input", str(folder / "in"), "--output",
         str(folder / "out"), "--probabilities", "--trainer.devices", "2"],
        tiny.fit_words(*words, "--devices", "2", *SGD),
    ]  # fmt: skip
    done = ranks.run(commands, folder / "commands.json", world=2)
    assert [each.code for each in done] == [0, 0], done
    return Later(done, results(run, "one"), folder / "out", folder)


@pytest.fixture
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cals_run(folder: Path) -> Path:
    return folder / "runs" / "blobs" / "tiny-cals" / "seed0"


def results(run: Path, tag: str = "best") -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    """The bytes of the texts and the arrays that a test left."""
    folder = run / "test" / tag
    with np.load(folder / "bins.npz") as bins, np.load(folder / "worst.npz") as worst:
        arrays = dict(bins) | {f"worst/{name}": array for name, array in worst.items()}
    return {name: (folder / name).read_bytes() for name in ("metrics.json", "cases.csv")}, arrays


def assert_same(
    run: Path, two: tuple[dict[str, bytes], dict[str, np.ndarray]], tag: str = "best"
) -> None:
    texts, arrays = results(run, tag)
    assert texts == two[0]
    assert arrays.keys() == two[1].keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, two[1][name], err_msg=name)


def test_two_ranks_leave_one_folder_and_print_once(
    trained: tuple[Path, tiny.Done],
) -> None:
    run, done = trained
    assert [path.name for path in run.parent.iterdir()] == ["seed0"]
    assert not list((run / "checkpoints").glob("*.incoming"))
    assert json.loads((run / "run.json").read_text())["ranks"] == 2
    assert done.out.count("Run folder:") == done.out.count("dataset ") == 1
    assert "rank" not in (done.out + done.err).lower()
    assert "Warning" not in done.err
    assert "sync_dist" not in done.err


@pytest.mark.usefixtures("_one_thread")
def test_two_ranks_keep_the_checkpoint_of_each_rule(trained: tuple[Path, tiny.Done]) -> None:
    there = {path.stem for path in (trained[0] / "checkpoints").iterdir()}
    rules = {f"best-{rule}" for rule in RULES}
    assert there == {"best", "last", *rules, "contender-0"}


def test_an_odd_number_of_cases_gives_the_same_digits(trained: tuple[Path, tiny.Done]) -> None:
    run, _ = trained
    two = results(run)
    assert len(two[0]["cases.csv"].splitlines()) == 1 + 3
    assert main(["evaluate", str(run), "--trainer.devices", "1"]) == 0
    assert_same(run, two)


@pytest.mark.usefixtures("_one_thread")
def test_fewer_cases_than_ranks_give_the_same_digits(
    trained: tuple[Path, tiny.Done], later: Later
) -> None:
    run, _ = trained
    assert len(later.one_case[0]["cases.csv"].splitlines()) == 1 + 1
    words = ["--data.init_args.test_cases", "1", "--tag", "one", "--trainer.devices", "1"]
    assert main(["evaluate", str(run), *words]) == 0
    assert_same(run, later.one_case, "one")


def test_each_input_is_predicted_once(later: Later) -> None:
    assert len(list(later.predictions.iterdir())) == 6
    for number in range(3):
        label = nib.load(later.predictions / f"case {number}.nii.gz")
        probs = nib.load(later.predictions / f"case {number}_prob.nii.gz")
        np.testing.assert_array_equal(np.asarray(probs.dataobj).argmax(-1), label.dataobj)


def test_ranks_started_from_outside_print_once_and_share_a_folder(later: Later) -> None:
    first, second = later.done
    assert second.out == second.err == ""
    assert first.out.count("Run folder:") == first.err.count("Reading cases") == 1
    assert "Warning" not in first.err
    run = cals_run(later.sgd)
    assert [path.name for path in run.parent.iterdir()] == ["seed0"]
    assert json.loads((run / "run.json").read_text())["ranks"] == 2


@pytest.mark.usefixtures("_one_thread")
def test_two_ranks_train_as_one_on_the_whole_batch(later: Later, tmp_path: Path) -> None:
    """Also where ranks differ in ignored voxels, and with a loss that adapts."""
    one, two = cals_run(tmp_path), cals_run(later.sgd)
    assert tiny.fit(*few_acdc.words(tmp_path), *SGD, "--devices", "1") == 0
    ours, theirs = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in (one, two)
    )
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=0, atol=1e-6, msg=name)
    fresh = build("cals").state_dict()["multipliers"]
    assert (ours["loss.multipliers"] > 10 * fresh).all()  # so that the penalty takes part
    for row, other in zip(*(read_rows(run / "metrics.csv") for run in (one, two)), strict=True):
        assert float(row["train/loss"]) == pytest.approx(float(other["train/loss"]), abs=1e-6)


def test_a_batch_that_cannot_be_shared_is_refused_at_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = tiny.words(tmp_path, batch_size=4)
    assert tiny.fit(*words, "--devices", "3") == 1
    told = capfd.readouterr().err
    assert "over all 3 ranks and must be a multiple of 3, got 4. Take BATCH_SIZE=6" in told
    assert tiny.fit(*words, "--devices", "2", "--trainer.sync_batchnorm", "true") == 1
    assert "trainer.sync_batchnorm must be false on the CPU" in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_sync_batchnorm_converts_the_network() -> None:
    trainer = Trainer(
        accelerator="cpu", devices=2, sync_batchnorm=True, logger=False, strategy="ddp",
        enable_checkpointing=False, enable_progress_bar=False,
    )  # fmt: skip
    network = UNet(2, 1, 4, channels=(4, 8), strides=(2,), norm="batch")
    network = trainer.strategy._layer_sync.apply(network)
    kinds = {type(module).__name__ for module in network.modules()}
    assert "SyncBatchNorm" in kinds
    assert not any(kind.startswith("BatchNorm") for kind in kinds)
