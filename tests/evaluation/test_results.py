"""The files of a test run: equal bytes for equal runs, and every number back from the histogram."""

import csv
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from mbls.evaluation import TestRun, from_bins, load_results, summary, write_results
from mbls.evaluation.results import to_json
from mbls.metrics import (
    REGIONS,
    CalibrationHistogram,
    DiceScore,
    FineHistogram,
    HausdorffDistance95,
    NormalizedSurfaceDice,
    case_values,
    estimate,
)
from mbls.metrics.bootstrap import patient_weights
from tests.evaluation.counted import ABOUT, META, counted, scored
from tests.metrics.answers import FOLDER

pytestmark = pytest.mark.usefixtures("few_draws")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, few_draws):
    path = tmp_path_factory.mktemp("results") / "best"
    path.parent.joinpath("returned.json").write_text(json.dumps(write_results(path, counted())))
    return path


def test_every_number_comes_back_from_the_histogram(folder):
    returned = json.loads(folder.with_name("returned.json").read_text())
    assert json.dumps(from_bins(folder / "bins.npz")) == json.dumps(returned)


@pytest.mark.usefixtures("figures")
def test_equal_runs_write_equal_bytes(tmp_path):
    folder, again = tmp_path / "one", tmp_path / "again"
    write_results(folder, counted())
    write_results(again, counted(order=(2, 0, 1)))
    names = sorted(p.name for p in folder.iterdir())
    figures = ("confidence", "reliability", "reliability_by_case", "true_error")
    drawn = [f"{figure}.{kind}" for figure in figures for kind in ("pdf", "png")]
    assert names == sorted(["bins.npz", "cases.csv", "metrics.json", *drawn])
    for name in names:
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name


def test_layout_and_values(folder):
    metrics = json.loads((folder / "metrics.json").read_text(), parse_constant=pytest.fail)
    histogram, dice = scored()
    bins = histogram.bins()
    cell = metrics["sound"]["label"]["per_case"]["cece"]
    assert cell["value"] == estimate(bins, "cece", region="label", pooling="per_case")[0]
    assert cell["n_cases"] == 3
    assert set(cell) == {"value", "low", "high", "floor", "n_cases"}
    assert metrics["sound"]["all"]["pooled"]["ece/MYO"]["value"] == estimate(bins, "ece/2")[0]
    assert metrics["sound"]["all"]["pooled"]["ece/heart"]["value"] == estimate(bins, "ece/heart")[0]
    assert metrics["meta"]["origin"] == "phantom"
    scores = dice.compute()
    assert metrics["dice"]["MYO"]["value"] == scores[[0, 2], 2].mean().item()
    assert metrics["dice"]["MYO"]["n_absent"] == 1
    assert metrics["dice"]["MYO"]["n_false"] == 1
    means = [metrics["dice"][name]["value"] for name in ("RV", "MYO")]
    assert metrics["dice"]["mean"]["value"] == pytest.approx(sum(means) / 2, abs=1e-15)


def test_one_row_a_case(folder):
    rows = list(csv.DictReader((folder / "cases.csv").open()))
    assert [row["case"] for row in rows] == ABOUT["cases"]
    assert [row["patient"] for row in rows] == ABOUT["patients"]
    assert rows[1]["dice/MYO"] == ""
    histogram, dice = scored()
    assert float(rows[2]["dice/RV"]) == dice.compute()[2, 1].item()
    values = case_values(histogram.bins(), "cece", region="union")
    assert [float(row["cece/union"]) for row in rows] == values.tolist()
    assert {int(row["voxels"]) for row in rows} == {12 * 13 * 4}


def test_loaded_results_are_the_written_ones(folder):
    results = load_results(folder)
    assert results.metrics["dice"]["mean"]["value"] > 0
    assert list(results.cases["patient"]) == ABOUT["patients"]
    assert (results.bins.cells == scored()[0].bins().cells).all()
    assert results.dice_counts.shape == (3, 4, 3)


@pytest.mark.usefixtures("figures")
def test_real_data_has_no_true_error(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("mbls.plots.save_figure", lambda _, path: drawn.append(path.name))
    run = counted(posterior=False, meta=META | {"origin": "real"})
    metrics = write_results(tmp_path, run)
    assert not any(name.startswith("true") for name in metrics["sound"]["all"]["pooled"])
    assert drawn == ["reliability", "reliability_by_case", "confidence"]


def test_surfaces_join_every_file(tmp_path):
    histogram, dice = scored()
    torch.manual_seed(0)
    measured = {}
    for name, cls in (("hd95", HausdorffDistance95), ("nsd", NormalizedSurfaceDice)):
        measured[name] = cls(3, unions={"heart": (1, 2)}, num_cases=3)
        target = torch.randint(3, (3, 7, 7))
        target[0][target[0] == 1] = 0
        probs, spacing = torch.rand(3, 3, 7, 7), torch.full((3, 2), 1.5)
        measured[name].update(probs, target, spacing=spacing, index=torch.arange(3))
    returned = write_results(tmp_path, TestRun.of(histogram, dice, **ABOUT, **measured))
    assert json.dumps(from_bins(tmp_path / "bins.npz")) == json.dumps(returned)
    values = measured["hd95"].compute()
    assert returned["hd95"]["RV"]["n_cases"] == 2
    assert returned["hd95"]["RV"]["value"] == values[1:, 1].mean().item()
    assert "background" not in returned["nsd"]
    rows = list(csv.DictReader((tmp_path / "cases.csv").open()))
    assert rows[0]["hd95/RV"] == ""
    assert float(rows[2]["nsd/heart"]) == measured["nsd"].compute()[2, 3].item()


def test_a_run_without_foreground_writes_null(tmp_path):
    histogram, dice = CalibrationHistogram(3, num_cases=1), DiceScore(3, num_cases=1)
    probs, index = torch.tensor([0.5, 0.25, 0.25]).view(1, 3, 1).expand(1, 3, 9), torch.tensor([0])
    histogram.update(probs, torch.zeros(1, 9), index=index)
    dice.update(probs, torch.zeros(1, 9), index=index)
    about = {"cases": ["a"], "patients": ["a"], "meta": META}
    returned = write_results(tmp_path, TestRun.of(histogram, dice, **about))
    assert math.isnan(returned["dice"]["mean"]["value"])
    written = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert written["dice"]["mean"] | {"value": None} == written["dice"]["mean"]
    assert written["sound"]["label"]["pooled"]["ece"]["value"] is None
    assert written["sound"]["label"]["per_case"]["ece"]["n_cases"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cases": ["a"]}, "one row per case"),
        ({"meta": {"dataset": "acdc", "origin": "real"}}, r"lacks \['class_names'\]"),
        ({"meta": META | {"origin": "ACDC"}}, "'real' or 'phantom'"),
        ({"meta": META | {"class_names": ["a"]}}, "must name 3 classes"),
    ],
)
def test_refused_descriptions(change, message):
    with pytest.raises(ValueError, match=message):
        counted(**change)


def test_missing_files_are_named(folder, tmp_path):
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"cases\.csv is missing"):
        load_results(tmp_path)
    torch.save({}, tmp_path / "bins.npz")
    with pytest.raises(ValueError, match="calibration histogram"):
        from_bins(tmp_path / "bins.npz")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["all are healthy", "all are healthy, invented", "one is missed"])
def test_absent_structures_are_left_out_and_counted(kind, tmp_path):
    target = torch.zeros(4, 8, 9, 5, dtype=torch.long)
    predicted = target.clone()
    if kind.endswith("invented"):
        predicted[:, 2:4, 2:5, 1:3] = 1
    if kind == "one is missed":
        target[0, 2:4, 2:5, 1:3] = 1
    probs = torch.nn.functional.one_hot(predicted, 3).movedim(-1, 1) * 5 + torch.rand(4, 3, 8, 9, 5)
    given = {"probs": probs.softmax(1), "target": target, "index": torch.arange(4),
             "spacing": torch.ones(4, 3)}  # fmt: skip
    settings = {"num_classes": 3, "unions": {"both": (1, 2)}, "num_cases": 4}
    histogram, dice = CalibrationHistogram(regions=REGIONS, **settings), DiceScore(**settings)
    hd95, nsd = HausdorffDistance95(**settings), NormalizedSurfaceDice(**settings)
    fine = FineHistogram(3, unions={"both": (1, 2)})
    for metric in (histogram, dice, hd95, nsd, fine):
        metric.update(**given)
    about = {"cases": list("abcd"), "patients": list("abcd"), "meta": META}
    run = TestRun.of(histogram, dice, hd95=hd95, nsd=nsd, fine=fine, **about)
    found = write_results(tmp_path, run)
    assert json.dumps(from_bins(tmp_path / "bins.npz")) == json.dumps(found)
    ill = int(kind == "one is missed")
    for overlap, missed in {"dice": 0, "nsd": 0, "hd95": (8**2 + 9**2 + 5**2) ** 0.5}.items():
        for name, cases in {"RV": ill, "MYO": 0, "both": ill, "mean": ill}.items():
            value = found[overlap][name]["value"]
            assert found[overlap][name]["n_cases"] == cases
            assert value == pytest.approx(missed) if cases else math.isnan(value)
    assert found["dice"]["RV"]["n_absent"] == 4 - ill
    assert found["dice"]["RV"]["n_false"] == 4 * kind.endswith("invented")
    sound = found["sound"]
    for pooling, number in {"pooled": ill, "per_case": ill}.items():
        assert sound["label"][pooling]["ece"]["n_cases"] == number
        assert math.isfinite(sound["label"][pooling]["ece"]["value"]) == bool(ill)
        assert math.isfinite(sound["all"][pooling]["ece"]["value"])
    rows = list(csv.DictReader((tmp_path / "cases.csv").read_text().splitlines()))
    assert [row["hd95/RV"] == "" for row in rows] == [not ill, True, True, True]
    assert all(row["ece/all"] for row in rows)


def test_files_of_earlier_versions_give_the_same_numbers(tmp_path, monkeypatch):
    """Of the version that took n_bins from a constant and wrote none to bins.npz."""
    monkeypatch.setattr(summary, "patient_weights", patient_weights)
    old = FOLDER / "test_run"
    stored = json.loads((old / "metrics.json").read_text())
    assert json.loads(to_json(from_bins(old / "bins.npz"))) == stored
    run = TestRun.load(old / "bins.npz")
    run.save(tmp_path / "bins.npz")
    with np.load(old / "bins.npz") as before, np.load(tmp_path / "bins.npz") as after:
        assert set(before) == set(after)
        assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    (tmp_path / "cases.csv").write_text(run.csv())
    rows, again = pd.read_csv(old / "cases.csv"), pd.read_csv(tmp_path / "cases.csv")
    added = [c for c in again if c not in rows]
    assert added == [f"true_signed/{region}" for region in run.bins.regions]
    pd.testing.assert_frame_equal(rows, again.drop(columns=added), check_exact=True)
    assert load_results(old).metrics == stored
