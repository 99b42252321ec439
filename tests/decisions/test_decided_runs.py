"""Thresholds that choose the classes of a test and a prediction, and their rows in a report."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from mbls.cli import main
from mbls.commands.evaluate import tag_of
from mbls.decisions.choice import Thresholds
from mbls.evaluation import TestRun
from mbls.report.build import build_report
from tests import few

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short 2D run on a fake ACDC download, tested, with thresholds that move every class."""
    folder = tmp_path_factory.mktemp("acdc")
    assert main(["train", *few.acdc_args(folder)]) == 0
    (found,) = (folder / "runs").glob("*/*/seed*")
    assert main(["thresholds", str(found), "--target", "recall:0.9"]) == 0
    assert main(["evaluate", str(found), "--decide", str(found / "decisions/recall-90.json")]) == 0
    return found


def counted(run: Path, tag: str) -> TestRun:
    return TestRun.load(run / "test" / tag / "bins.npz")


def probabilities(run: Path, output: Path, *options: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities ``(C, *S)`` and the label map of one predicted case."""
    source = next((run.parents[3] / "ACDC").rglob("patient101/*frame01.nii.gz"))
    args = ["--run", str(run), "--input", str(source), "--output", str(output), "--probabilities"]
    assert main(["predict", *args, *options]) == 0
    (file,) = output.glob("*_prob.nii.gz")
    label = nib.load(str(file).replace("_prob", ""))
    probs = np.moveaxis(np.asarray(nib.load(file).dataobj), -1, 0)
    return probs, np.asarray(label.dataobj)


def by_rule(probs: np.ndarray, thresholds: list[float]) -> np.ndarray:
    """The class furthest above its threshold, voxel by voxel."""
    label = np.zeros(probs.shape[1:], dtype=int)
    for place in np.ndindex(*label.shape):
        above = [
            (probs[(k, *place)] / max(t, 1 / 120), -k)
            for k, t in enumerate(thresholds, 1)
            if probs[(k, *place)] > np.float32(t)
        ]
        label[place] = -max(above)[1] if above else 0
    return label


def test_a_decided_test_has_other_classes_and_the_same_calibration(run: Path) -> None:
    before, after = counted(run, "best"), counted(run, "best+recall-90")
    assert np.array_equal(before.bins.cells, after.bins.cells)
    assert np.array_equal(before.bins.sums, after.bins.sums)
    assert not np.array_equal(before.dice, after.dice)
    assert not np.array_equal(before.surfaces["hd95"], after.surfaces["hd95"], equal_nan=True)
    assert np.array_equal(before.dice[..., 2], after.dice[..., 2])
    assert after.meta["decision"] == "recall-90"
    assert "decision" not in before.meta
    assert sum(after.meta["changed_voxels"]) > 0


def test_a_prediction_is_decided_by_the_rule(run: Path, tmp_path: Path) -> None:
    file = run / "decisions/recall-90.json"
    probs, label = probabilities(run, tmp_path / "out", "--decide", str(file))
    thresholds = list(Thresholds.load(file).values.values())
    assert np.array_equal(label, by_rule(probs, thresholds))
    assert not np.array_equal(label, probs.argmax(0))
    _, plain = probabilities(run, tmp_path / "plain")
    assert np.array_equal(plain, probs.argmax(0))


def test_the_report_has_a_row_of_the_decision(run: Path, tmp_path: Path) -> None:
    (analysis,) = build_report([run], tmp_path / "report", draws=100)
    assert {arm.name for arm in analysis.group.arms} == {"mbls", "mbls@recall-90"}


def test_thresholds_must_suit_the_test(
    run: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    content = json.loads((run / "decisions/recall-90.json").read_text())
    seen = counted(run, "best").patients[0]
    keys = ["a", *content["class_keys"][1:]]
    first = content["class_keys"][1]
    wrong = {
        "of the test patients": {"patients": [seen]},
        "with the calibrator temperature": {"calibrator": "temperature"},
        "is of the classes a,": {"class_keys": keys},
        "no threshold for recall:0.9 of": {"values": content["values"] | {first: None}},
        "is no file of thresholds": {"version": 0},
    }
    for message, change in wrong.items():
        file = tmp_path / "wrong.json"
        file.write_text(json.dumps(content | change))
        assert message in refusal("evaluate", str(run), "--decide", str(file)), message


def test_the_tag_names_calibrator_and_target() -> None:
    given = [("post_hoc.decide", "r/decisions/dice.json"), ("post_hoc.calibrator", "c/vector.json")]
    assert tag_of("best", given, {}) == "best+vector+dice"
    assert tag_of("best", given[:1], {}) == "best+dice"


def test_two_classes_at_one_half_are_the_predicted_ones() -> None:
    probs = torch.rand(2, 1, 50, 40)
    probs = torch.cat([1 - probs, probs], dim=1)
    half = Thresholds("dice", ("bg", "a"), {"a": 0.5}, {}, {}, (), ())
    assert torch.equal(half.label_map(probs), probs.argmax(1))
