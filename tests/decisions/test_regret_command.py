"""``mbls regret``: a run on a phantom, runs side by side, and runs that have no true answer."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from mbls.callbacks.drawn_labels import DrawnLabels
from mbls.cli import main
from mbls.decisions.regret import PARTS
from mbls.posthoc import Temperature
from mbls.posthoc.base import Card
from mbls.report.decisions import KINDS, _read
from mbls.runtime.errors import SettingError
from tests import tiny
from tests.blobs import BlobDataModule
from tests.grouped import nested

pytestmark = pytest.mark.filterwarnings("ignore")
DRAWS = ("--draws", "6")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on a small phantom of ACDC, with its regret."""
    folder = tmp_path_factory.mktemp("phantom")
    args = tiny.train_args(folder, epochs=1)
    settings = {
        "root": None, "phantom_root": str(folder / "acdc"), "cache_dir": str(folder / "cache"),
        "phantom_patients": {"train": 2, "val": 1, "test": 2}, "patch_size": [64, 64],
        "batch_size": 8,
    }  # fmt: skip
    data = {"class_path": "datamodules.ACDCDataModule", "init_args": nested(**settings)}
    (folder / "data" / "blobs.yaml").write_text(yaml.safe_dump({"data": data}))
    assert main(["train", *args]) == 0
    (found,) = (folder / "runs").glob("*/*/seed*")
    assert main(["regret", str(found), *DRAWS]) == 0
    return found


def test_each_structure_has_the_chain_and_its_parts(run: Path) -> None:
    table = pd.read_csv(run / "decisions/regret.csv")
    assert set(table.structure) == {"right ventricle", "myocardium", "left ventricle", "mean"}
    assert set(table.probabilities) == {"raw"}
    for (quantity, _), rows in table.groupby(["quantity", "structure"]):
        values = rows.set_index("term").value
        assert sum(values[list(PARTS)]) == pytest.approx(values.total)
        if quantity == "dice":
            assert values.ceiling - values.total == pytest.approx(values["argmax"])
            assert values.ceiling > 0.7
            assert values.network > 0.05  # of a network that has learned nothing
    content = json.loads((run / "decisions/regret.json").read_text())
    assert content["meta"]["number"] == 6
    assert content["meta"]["origin"] == "phantom"
    assert len(content["rows"]) == len(table)
    assert (run / "decisions/regret.png").stat().st_size > 10_000


def test_a_report_reads_the_table(run: Path) -> None:
    kind = next(kind for kind in KINDS if kind.files == "regret.csv")
    table = _read(run / "decisions/regret.csv", kind)
    assert table is not None
    assert {"ceiling", *PARTS, "argmax", "network_low"} <= set(table.columns)
    assert table.loc[("raw", "mean"), "ceiling"] > 0.7


def test_labels_are_drawn_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (run / "decisions/regret.csv").read_bytes()

    def refused(*_: object) -> None:
        raise AssertionError("a pass of the network")

    monkeypatch.setattr("mbls.config.cli.command_line", refused)
    assert main(["regret", str(run), *DRAWS]) == 0
    assert (run / "decisions/regret.csv").read_bytes() == before
    assert main(["regret", str(run), "--draws", "7"]) == 1


def test_calibrated_probabilities_are_beside_the_raw_ones(run: Path) -> None:
    names = json.loads((run / "test/best/metrics.json").read_text())["meta"]["class_keys"]
    file = run / "calibrators/temperature.json"
    file.parent.mkdir()
    Temperature(Card(tuple(names)), temperature=2.0).save(file)
    assert main(["regret", str(run), *DRAWS]) == 0
    table = pd.read_csv(run / "decisions/regret.csv")
    assert set(table.probabilities) == {"raw", "temperature"}
    by = table[table.quantity == "dice"].set_index(["probabilities", "structure", "term"]).value
    for term in ("ceiling", "argmax"):  # which a temperature doesn't change
        assert by["raw", "mean", term] == pytest.approx(by["temperature", "mean", term])
    assert by["raw", "mean", "own"] != by["temperature", "mean", "own"]
    volume = table[table.quantity == "volume"].set_index(["probabilities", "structure", "term"])
    assert (
        volume.value["raw", "mean", "calibration"]
        < volume.value["temperature", "mean", "calibration"]  # of a flat prediction, flatter
    )
    file.unlink()


def test_runs_side_by_side(run: Path, tmp_path: Path, refusal: Callable[..., str]) -> None:
    assert main(["regret", "--runs", f"{run} {run}", "--output", str(tmp_path), *DRAWS]) == 0
    assert (tmp_path / "regret.png").stat().st_size > 10_000
    assert "Name one run folder" in refusal("regret")
    assert "OUTPUT (--output) is of several RUNS" in refusal("regret", str(run), "--output", "x")


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"data_origin": "real"}, "is on real data: regret needs the true distribution"),
        ({"data_origin": "phantom", "audit": {}}, "is an audit of other predictions"),
    ],
)
def test_runs_without_a_true_answer_are_refused(
    card: dict[str, object], message: str, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    (tmp_path / "run.json").write_text(json.dumps(card))
    assert message in refusal("regret", str(tmp_path))


def test_data_whose_labels_cannot_be_drawn_are_refused(tmp_path: Path) -> None:
    trainer = tiny.trainer()
    trainer.datamodule = BlobDataModule(None)
    callback = DrawnLabels(file=tmp_path / "counts.npz")
    with pytest.raises(SettingError, match="Labels can be drawn of phantoms only"):
        callback.on_test_start(trainer, torch.nn.Identity())


def test_another_grid_is_refused(run: Path, refusal: Callable[..., str]) -> None:
    message = refusal("regret", str(run), "--model.grid", "native", *DRAWS)
    assert "drawn on the cache's grid: leave out --model.grid native" in message
