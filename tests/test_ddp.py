"""One process or two: the same digits to the last bit, one folder, each line printed once."""

import json
from collections.abc import Callable
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
from tests import few, processes, tiny
from tests.datamodules.conftest import blobs, save
from tests.forks import Forks
from tests.losses.every_loss import build

pytestmark = [pytest.mark.ddp, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, processes.Done]:
    """Train on two ranks, of which lightning starts the second, with an odd number of cases."""
    folder = tmp_path_factory.mktemp("ddp")
    args = [*few.acdc_args(folder, test_cases=3), "--checkpoint.keep", "true"]
    done = processes.mbls("train", *args, "--devices", "2")
    assert done.code == 0, done.err
    return tiny.run_folder(folder), done


SGD = [  # nothing in it depends on how a batch is divided: no dropout, no batch statistics
    "--model.optimizer", "torch.optim.SGD", "--model.optimizer.init_args.lr", "0.01",
    "--model.network.init_args.dropout", "0.0", "--epochs", "2", "--loss", "cals",
    "--model.loss.init_args.margin", "0.5",
    "--data.init_args.sampling.patch_size=[28,28]",  # padding differs between ranks
]  # fmt: skip


@pytest.fixture
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def results(run: Path, tag: str = "best") -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    """The bytes of the texts and the arrays that a test left."""
    folder = run / "test" / tag
    arrays = {}
    for file in ("bins", "worst", "unsure"):
        with np.load(folder / f"{file}.npz") as found:
            arrays |= {f"{file}/{name}": array for name, array in found.items()}
    return {name: (folder / name).read_bytes() for name in ("metrics.json", "cases.csv")}, arrays


def assert_same(
    run: Path, two: tuple[dict[str, bytes], dict[str, np.ndarray]], tag: str = "best"
) -> None:
    texts, arrays = results(run, tag)
    assert texts == two[0]
    assert arrays.keys() == two[1].keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, two[1][name], err_msg=name)


def test_two_ranks_leave_one_folder_and_print_once(trained: tuple[Path, processes.Done]) -> None:
    run, done = trained
    assert [path.name for path in run.parent.iterdir()] == ["seed0"]
    assert json.loads((run / "run.json").read_text())["ranks"] == 2
    assert done.out.count("Run folder:") == done.out.count("dataset ") == 1
    assert "rank" not in (done.out + done.err).lower()
    assert "Warning" not in done.err
    assert "sync_dist" not in done.err
    checkpoints = {path.name for path in (run / "checkpoints").iterdir()}
    rules = {f"best-{rule}.ckpt" for rule in RULES}
    assert checkpoints == {"best.ckpt", "last.ckpt", *rules, "contender-0.ckpt"}


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("cases", [3, 1])
def test_any_number_of_cases_gives_the_same_digits(
    cases: int, trained: tuple[Path, processes.Done], forks: Forks
) -> None:
    """An odd number, and fewer than ranks."""
    run, _ = trained
    args, tag = [], "best"
    if cases == 1:
        args, tag = ["--data.init_args.test_cases", "1", "--tag", "one"], "one"
        forks.ranks("evaluate", str(run), *args)
    two = results(run, tag)
    assert len(two[0]["cases.csv"].splitlines()) == 1 + cases
    assert main(["evaluate", str(run), *args, "--trainer.devices", "1"]) == 0
    assert_same(run, two, tag)


def test_two_ranks_predict_each_input_once(
    trained: tuple[Path, processes.Done], forks: Forks, tmp_path: Path
) -> None:
    given, output = tmp_path / "in", tmp_path / "out"
    given.mkdir()
    for number in range(3):
        save(given / f"case {number}.nii.gz", blobs(number)[0])
    args = ["--run", str(trained[0]), "--input", str(given), "--output", str(output)]
    forks.ranks("predict", *args, "--probabilities")
    assert len(list(output.iterdir())) == 6
    for number in range(3):
        label = nib.load(output / f"case {number}.nii.gz")
        probs = nib.load(output / f"case {number}_prob.nii.gz")
        np.testing.assert_array_equal(np.asarray(probs.dataobj).argmax(-1), label.dataobj)


@pytest.mark.usefixtures("_one_thread")
def test_two_ranks_train_as_one_on_the_whole_batch(forks: Forks, tmp_path: Path) -> None:
    """Also where ranks differ in ignored voxels, with a loss that adapts, without a launcher."""
    runs = []
    for world in (2, 1):
        folder = tmp_path / str(world)
        args = [*few.acdc_args(folder), *SGD, "--devices", str(world)]
        if world == 2:
            first, second = forks.ranks(*tiny.fit_args(*args))
            assert second.out == ""
            assert first.out.count("Reading cases") == 1
            assert "Warning" not in first.out
        else:
            assert tiny.fit(*args) == 0
        runs.append(folder / "runs" / "blobs" / "tiny-cals" / "seed0")
    assert [path.name for path in runs[0].parent.iterdir()] == ["seed0"]
    theirs, ours = (tiny.state(run)["state_dict"] for run in runs)
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=0, atol=1e-6, msg=name)
    fresh = build("cals").state_dict()["multipliers"]
    assert (ours["loss.multipliers"] > 10 * fresh).all()  # so that the penalty takes part
    for row, other in zip(*(read_rows(run / "metrics.csv") for run in runs), strict=True):
        assert float(row["train/loss"]) == pytest.approx(float(other["train/loss"]), abs=1e-6)


def test_batch_that_ranks_cannot_share_is_refused(
    tmp_path: Path, refusal: Callable[..., str]
) -> None:
    args = ["train", *tiny.train_args(tmp_path, batch_size=4)]
    assert "must be a multiple of 3, got 4. Use BATCH_SIZE=6" in refusal(*args, "--devices", "3")
    error = refusal(*args, "--devices", "2", "--trainer.sync_batchnorm", "true")
    assert "trainer.sync_batchnorm must be false" in error
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
