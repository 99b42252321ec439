"""One epoch of ``make train`` with every LOSS, on ACDC's phantom; the binary one on one class."""

import csv
import json
import math
from pathlib import Path

import pytest
import yaml

from experiments import __file__ as experiments
from tests import tiny
from tests.losses.every_loss import BINARY, CONFIGS

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the phantom and the caches that all losses share."""
    return tmp_path_factory.mktemp("epoch")


def dataset(home: Path, name: str) -> str:
    """Return the quick preset's ACDC, or the file that makes one class of its structures."""
    if name not in BINARY:
        return "acdc"
    folder = Path(experiments).parent / "configs" / "data"
    settings = {}
    for stem in ("acdc", "acdc.quick"):
        settings |= yaml.safe_load((folder / f"{stem}.yaml").read_text())["data"]["init_args"]
    data = {"class_path": "tests.losses.whole_heart.WholeHeart", "init_args": settings}
    path = home / "heart.yaml"
    path.write_text(yaml.safe_dump({"data": data}))
    return str(path)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_epoch_of_every_loss_is_finite(name: str, home: Path) -> None:
    status = tiny.fit(
        *("--dataset", dataset(home, name), "--loss", name, "--preset", "quick", "--epochs", "1"),
        *("--accelerator", "cpu", "--run", str(home / name), "--trainer.callbacks", "null"),
        *("--data.init_args.phantom_root", str(home / "phantom")),
        *("--data.init_args.phantom_patients", "{train: 6, val: 1, test: 1}"),
        *("--data.init_args.cache_dir", str(home / "cache")),
        *("--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "2"),
    )
    assert status == 0
    with (home / name / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    values = {key: float(value) for key, value in row.items() if key.startswith(("train", "val"))}
    assert values["train/loss"] != 0
    assert all(math.isfinite(value) for value in values.values()), values
    card = json.loads((home / name / "run.json").read_text())
    assert (card["loss"], card["data_origin"]) == (name, "phantom")
