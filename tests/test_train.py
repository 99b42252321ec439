"""The main job on a datamodule without files: run folder, resume, faults, equal digits."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from mbls.cli import main
from mbls.metrics import from_bins

pytestmark = pytest.mark.filterwarnings("ignore")
CONFIGS = Path(__file__).parents[1] / "experiments" / "configs"


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Words of a tiny run: blobs, a two-level network, the MbLS loss."""
    data = {"class_path": "tests.blobs.BlobDataModule", "init_args": {"root": None}}
    network = {
        "class_path": "monai.networks.nets.UNet",
        "init_args": {"channels": [4, 8], "strides": [2], "num_res_units": 0},
    }
    choice = {
        "data/blobs": {"data": data},
        "network/tiny": {"model": {"network": network, "divisor": 2}},
    }
    for name, content in choice.items():
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir()
        path.write_text(yaml.safe_dump(content))
    return [
        "--dataset", str(tmp_path / "data/blobs.yaml"),
        "--network", str(tmp_path / "network/tiny.yaml"),
        "--loss", "mbls", "--preset", "quick", "--epochs", "2", "--accelerator", "cpu",
        "--trainer.enable_progress_bar", "false", "--trainer.callbacks", "null",
        "--run.root", str(tmp_path / "runs"),
    ]  # fmt: skip


def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "blobs" / "tiny-mbls" / "seed0"


def test_a_run_leaves_what_the_design_lists(tmp_path: Path, words: list[str]) -> None:
    assert main(["train", *words]) == 0
    run = folder(tmp_path)
    for name in ("config.yaml", "run.json", "metrics.csv", "checkpoints/best.ckpt",
                 "checkpoints/last.ckpt", "checkpoints/previous.ckpt", "test/best/metrics.json",
                 "test/best/cases.csv", "test/best/bins.npz",
                 "test/best/reliability.png"):  # fmt: skip
        assert (run / name).is_file(), name
    card = json.loads((run / "run.json").read_text())
    assert card["finished"] is True
    assert (card["dataset"], card["network"], card["loss"]) == ("blobs", "tiny", "mbls")
    assert card["data_origin"] == "phantom"
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    wanted = {"train/loss", "train/ce", "train/margin", "val/dice", "val/dice/ring",
              "val/dice/disc", "val/ece", "val/ece_label", "val/cece", "val/nll"}  # fmt: skip
    assert wanted <= set(rows[0])
    assert {row["epoch"] for row in rows} == {"0", "1"}
    metrics = json.loads((run / "test/best/metrics.json").read_text())
    assert from_bins(run / "test/best/bins.npz") == metrics


def test_a_second_run_gets_a_folder_of_its_own(tmp_path: Path, words: list[str]) -> None:
    for _ in range(2):
        assert main(["train", *words, "--epochs", "1"]) == 0
    assert sorted(p.name for p in folder(tmp_path).parent.iterdir()) == ["seed0", "seed0-2"]


def test_evaluate_gives_the_run_s_own_digits(tmp_path: Path, words: list[str]) -> None:
    assert main(["train", *words]) == 0
    best = folder(tmp_path) / "test" / "best"
    before = {name: (best / name).read_bytes() for name in ("metrics.json", "cases.csv")}
    assert main(["evaluate", str(folder(tmp_path))]) == 0
    assert {name: (best / name).read_bytes() for name in before} == before
    assert main(["evaluate", str(folder(tmp_path)), "--ckpt", "last"]) == 0
    assert (folder(tmp_path) / "test" / "last" / "metrics.json").is_file()
