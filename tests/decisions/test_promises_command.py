"""``mbls volumes`` and ``mbls guarantee``: a run, its predictions, and an audit."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from mbls.cli import main
from mbls.decisions.guarantee import Guarantee
from mbls.decisions.masks import promised_masks
from mbls.decisions.quantities import quantities_of
from mbls.evaluation import TestRun
from tests import few
from tests.decisions.made import run_of
from tests.report.fake import write_run

pytestmark = pytest.mark.filterwarnings("ignore")
PROMISE = ["--fnr", "0.3", "--alpha", "0.4"]
NAME = "fnr-30-alpha-40"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short 2D run on a fake ACDC download, with volumes and a guarantee."""
    folder = tmp_path_factory.mktemp("acdc")
    assert main(["train", *few.acdc_args(folder)]) == 0
    (found,) = (folder / "runs").glob("*/*/seed*")
    assert main(["volumes", str(found), "--alpha", "0.4"]) == 0
    assert main(["guarantee", str(found), *PROMISE]) == 0
    return found


def test_volumes_are_calibrated_on_validation_patients(run: Path) -> None:
    folder = run / "decisions"
    table = pd.read_csv(folder / "volumes.csv").set_index("quantity")
    test = TestRun.load(run / "test/best/bins.npz")
    validation = TestRun.load(folder / "val-bins.npz")
    kept = json.loads((folder / "volumes.json").read_text())
    names = [one.name for one in quantities_of(test)]
    assert list(table.index) == names == list(kept["quantiles"])
    assert names[-3:] == ["LV ejection fraction", "RV ejection fraction", "LV mass"]
    one, other = (quantities_of(each)[0] for each in (test, validation))
    assert kept["patients"][one.name] == len(set(validation.patients))
    cases = pd.read_csv(folder / "volumes-cases.csv")
    own = cases[cases.quantity == one.name]
    assert own.case.tolist() == list(test.cases)
    np.testing.assert_allclose(own.expected, one.expected)
    scores = np.array(list(other.scores().values()))
    assert kept["quantiles"][one.name] in scores
    np.testing.assert_allclose(own.high, one.expected + kept["quantiles"][one.name] * one.scale)
    assert (folder / "volumes.png").stat().st_size > 10_000
    assert test.meta["phases"] == ["ED", "ES"] * (len(test.cases) // 2) + ["ED"] * (
        len(test.cases) % 2
    )


def test_a_guarantee_is_on_the_grid_of_the_files(run: Path) -> None:
    folder = run / "decisions/best-native"
    test = TestRun.load(run / "test/best-native/bins.npz")
    validation = TestRun.load(folder / "val-bins.npz")
    assert test.margins is not None
    assert test.meta["grid"] == validation.meta["grid"] == "native"
    table = pd.read_csv(folder / f"{NAME}.csv")
    assert len(table) == 2 * len(set(table.structure))
    assert (folder / f"{NAME}.png").stat().st_size > 10_000
    for family in ("threshold", "margin"):
        found = Guarantee.load(folder / f"{NAME}-{family}.json")
        assert set(found.patients) == set(validation.patients)
        assert (found.grid, found.probabilities) == ("native", test.meta["probabilities"])


def test_validation_on_the_grid_of_the_files_has_their_voxels(run: Path) -> None:
    """Those of a resampled cache are others, and promise nothing there."""
    validation = TestRun.load(run / "decisions/best-native/val-bins.npz")
    shapes = []
    for case in validation.cases:
        (file,) = (run.parents[3] / "ACDC").rglob(f"{case}_gt.nii*")
        shapes.append(np.prod(nib.load(file).shape))
    assert validation.bins.sums[:, 0, 0].tolist() == shapes


@pytest.mark.parametrize("family", ["threshold", "margin"])
def test_predictions_have_the_promised_masks(run: Path, family: str, tmp_path: Path) -> None:
    source = next((run.parents[3] / "ACDC").rglob("patient101/*frame01.nii.gz"))
    found = Guarantee.load(run / f"decisions/best-native/{NAME}-{family}.json")
    first = found.structures[0]  # a mask of each kind, whatever the training gave
    found = replace(found, outer={**found.outer, first: {"threshold": 0.1, "margin": 4.0}[family]})
    found.save(tmp_path / "g.json")
    args = ["--run", str(run), "--input", str(source), "--output", str(tmp_path / "out")]
    assert main(["predict", *args, "--probabilities", "--guarantee", str(tmp_path / "g.json")]) == 0
    image = nib.load(next((tmp_path / "out").glob("*_prob.nii.gz")))
    probs = torch.from_numpy(np.moveaxis(np.asarray(image.dataobj), -1, 0).copy())
    spacing = [float(mm) for mm in image.header.get_zooms()[:3]]
    masks = promised_masks(found, probs, unions={}, spacing=spacing)
    assert len(masks) == 2 * (len(found.class_keys) - 1)
    for name, mask in masks.items():
        (file,) = (tmp_path / "out").glob(f"*_{name}.nii.gz")
        kept = nib.load(file)
        assert np.array_equal(np.asarray(kept.dataobj), mask), name
        assert np.allclose(kept.affine, image.affine)
    assert main(["predict", *args, "--guarantee", str(tmp_path / "g.json")]) == 0  # replaces them


def test_a_guarantee_must_suit_the_prediction(
    run: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    source = next((run.parents[3] / "ACDC").rglob("patient101/*frame01.nii.gz"))
    content = json.loads((run / f"decisions/best-native/{NAME}-margin.json").read_text())
    names = ["x", *content["structures"][1:]]
    maps = {k: dict.fromkeys(names, 1) for k in ("outer", "inner", "numbers")}
    wrong = {
        "is of the structures x": {"structures": names, **maps},
        "with the calibrator temperature": {"calibrator": "temperature"},
        "holds on the preprocessed grid": {"grid": "preprocessed"},
        "on other probabilities": {"probabilities": "0"},
        "is no file of a guarantee": {"version": 0},
    }
    for message, change in wrong.items():
        file = tmp_path / "wrong.json"
        file.write_text(json.dumps(content | change))
        args = ["--run", str(run), "--input", str(source), "--output", str(tmp_path / "out")]
        assert message in refusal("predict", *args, "--guarantee", str(file)), message


def test_an_audit_is_cross_fitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path, card={"audit": {"predictions": "x"}}, patients=6)
    test = run_of(12)
    test.save(folder / "test/best/bins.npz")
    assert main(["volumes", str(folder), "--groups", "3", "--alpha", "0.3"]) == 0
    table = pd.read_csv(folder / "decisions/volumes.csv").set_index("quantity")
    assert table.calibrated_on["RV"] == 8
    assert np.isnan(table["quantile"]["RV"])
    assert main(["guarantee", str(folder), "--groups", "3", *PROMISE]) == 0
    assert set(pd.read_csv(folder / f"decisions/{NAME}.csv").family) == {"threshold", "margin"}
    assert len(Guarantee.load(folder / f"decisions/{NAME}-margin.json").patients) == 12
    replace(test, margins=None).save(folder / "test/best/bins.npz")
    capsys.readouterr()
    assert main(["guarantee", str(folder), "--groups", "3", "--fnr", "0.2", "--alpha", "0.05"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "MARGINS=1" in said
    assert "Too few patients calibrate" in said
    assert set(pd.read_csv(folder / "decisions/fnr-20-alpha-5.csv").family) == {"threshold"}


def test_a_group_of_an_audit_may_have_too_few_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 12 patients 8 calibrate each third, and a level of 0.1 needs 9."""
    folder = write_run(tmp_path, card={"audit": {"predictions": "x"}}, patients=6)
    run_of(12).save(folder / "test/best/bins.npz")
    args = ["guarantee", str(folder), "--fnr", "0.2", "--alpha", "0.1"]
    for groups, short in (("3", True), ("6", False)):
        assert main([*args, "--groups", groups]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert ("Too few patients calibrate (rv 8" in said) == short
        assert "make predict" not in said
        file = folder / "decisions/fnr-20-alpha-10-threshold.json"
        assert f"make decide DECIDE={file}" in said


@pytest.mark.parametrize("command", ["volumes", "guarantee", "thresholds"])
def test_an_audit_of_one_patient_is_refused(
    command: str, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    folder = write_run(tmp_path, card={"audit": {"predictions": "x"}}, patients=6)
    run_of(1).save(folder / "test/best/bins.npz")
    said = refusal(command, str(folder))
    assert "An audit of one patient cannot be cross-fitted: all 2 cases are of p0" in said
    assert "--patient" in said


def test_without_labeled_structures_there_is_no_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path, card={"audit": {"predictions": "x"}}, patients=6)
    test = run_of(6)
    dice, cells = test.dice.copy(), test.bins.cells.copy()
    dice[..., 0] = dice[..., 2] = 0  # nothing is labeled, so nothing is hit
    cells[:, :, 2:, :, 1] = 0
    assert test.margins is not None
    margins = test.margins.copy()
    margins[..., 0] = 0
    bins = replace(test.bins, cells=cells)
    replace(test, dice=dice, bins=bins, margins=margins).save(folder / "test/best/bins.npz")
    assert main(["guarantee", str(folder), "--groups", "3", *PROMISE]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "No figure: no structure is labeled in the test." in said
    table = pd.read_csv(folder / f"decisions/{NAME}.csv")
    assert (table.patients == 0).all()
    assert not (folder / f"decisions/{NAME}.png").exists()


@pytest.mark.parametrize(
    ("command", "option"),
    [("guarantee", "fnr"), ("volumes", "alpha"), ("shift", "alpha"), ("refer", "share")],
)
@pytest.mark.parametrize("wrong", ["5", "0", "x", "-0.1"])
def test_shares_are_checked(
    command: str, option: str, wrong: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "runs/x", f"--{option}={wrong}"])
    assert f"above 0 and below 1, got {wrong}" in capfd.readouterr().err


def test_a_run_is_needed(refusal: Callable[..., str]) -> None:
    assert "Name a run folder" in refusal("volumes")
