"""One process or two: the same digits to the last bit, one voice, one folder."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from mbls.cli import main
from tests import few_acdc, tiny
from tests.datamodules.conftest import blobs, save

pytestmark = [pytest.mark.ddp, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tiny.Done]:
    """The folder of a run on two ranks, with an odd number of test cases, and what it printed."""
    folder = tmp_path_factory.mktemp("ddp")
    done = tiny.mbls("train", *few_acdc.words(folder, test_cases=3), "--devices", "2")
    assert done.code == 0, done.err
    return tiny.run_folder(folder), done


@pytest.fixture
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def results(run: Path) -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    """The bytes of the texts and the arrays that a test left."""
    folder = run / "test" / "best"
    with np.load(folder / "bins.npz") as bins:
        arrays = dict(bins)
    return {name: (folder / name).read_bytes() for name in ("metrics.json", "cases.csv")}, arrays


def assert_same(run: Path, two: tuple[dict[str, bytes], dict[str, np.ndarray]]) -> None:
    texts, arrays = results(run)
    assert texts == two[0]
    assert arrays.keys() == two[1].keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, two[1][name], err_msg=name)


def test_two_ranks_leave_one_folder_and_speak_with_one_voice(
    trained: tuple[Path, tiny.Done],
) -> None:
    run, done = trained
    assert [path.name for path in run.parent.iterdir()] == ["seed0"]
    assert not list((run / "checkpoints").glob("incoming*"))
    assert json.loads((run / "run.json").read_text())["ranks"] == 2
    assert done.out.count("Run folder:") == done.out.count("dataset ") == 1
    assert "rank" not in (done.out + done.err).lower()
    assert "Warning" not in done.err
    assert "sync_dist" not in done.err


@pytest.mark.usefixtures("_one_thread")
def test_an_odd_number_of_cases_gives_the_same_digits(trained: tuple[Path, tiny.Done]) -> None:
    run, _ = trained
    two = results(run)
    assert len(two[0]["cases.csv"].splitlines()) == 1 + 3
    assert main(["evaluate", str(run), "--trainer.devices", "1"]) == 0
    assert_same(run, two)


@pytest.mark.usefixtures("_one_thread")
def test_fewer_cases_than_ranks_give_the_same_digits(trained: tuple[Path, tiny.Done]) -> None:
    run, _ = trained
    one_case = ["evaluate", str(run), "--data.init_args.test_cases", "1"]
    done = tiny.mbls(*one_case, "--trainer.devices", "2")
    assert done.code == 0, done.err
    assert done.out.count("Run folder:") == 1
    assert "Warning" not in done.err
    two = results(run)
    assert len(two[0]["cases.csv"].splitlines()) == 1 + 1
    assert main([*one_case, "--trainer.devices", "1"]) == 0
    assert_same(run, two)


def test_each_input_is_predicted_once(trained: tuple[Path, tiny.Done], tmp_path: Path) -> None:
    run, _ = trained
    (tmp_path / "in").mkdir()
    for number in range(3):
        save(tmp_path / "in" / f"case {number}.nii.gz", blobs(number)[0])
    done = tiny.mbls(
        "predict", "--run", str(run), "--input", str(tmp_path / "in"), "--output",
        str(tmp_path / "out"), "--probabilities", "--trainer.devices", "2",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert len(list((tmp_path / "out").iterdir())) == 6
    for number in range(3):
        label = nib.load(tmp_path / "out" / f"case {number}.nii.gz")
        probs = nib.load(tmp_path / "out" / f"case {number}_prob.nii.gz")
        np.testing.assert_array_equal(np.asarray(probs.dataobj).argmax(-1), label.dataobj)
