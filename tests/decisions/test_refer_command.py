"""``mbls refer``: a run, an ensemble, and an audit."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mbls.cli import main
from mbls.decisions.refer import case_confidences, case_risk
from mbls.evaluation import TestRun
from mbls.plots.worst_cases import load_pictures
from tests import few
from tests.predictions.made import probabilities, write_labels, write_npz

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short 2D run on a fake ACDC download, tested, with its cases ordered."""
    folder = tmp_path_factory.mktemp("acdc")
    assert main(["train", *few.acdc_args(folder)]) == 0
    (found,) = (folder / "runs").glob("*/*/seed*")
    assert main(["refer", str(found), "--share", "0.5"]) == 0
    return found


def test_cases_are_ordered_by_confidence(run: Path) -> None:
    test = TestRun.load(run / "test/best/bins.npz")
    table = pd.read_csv(run / "decisions/refer.csv")
    assert table["soft_dice"].is_monotonic_increasing
    assert sorted(table["case"]) == sorted(test.cases)
    by_case = dict(zip(test.cases, 1 - case_risk(test), strict=True))
    np.testing.assert_allclose(table["dice"], [by_case[case] for case in table["case"]])
    level = json.loads((run / "decisions/refer.json").read_text())
    assert not set(level["patients"]) & set(test.patients)
    assert table["referred"].tolist() == (table["soft_dice"] < level["level"]).tolist()
    areas = pd.read_csv(run / "decisions/refer-areas.csv")
    assert len(areas) == 4
    each = pd.read_csv(run / "decisions/refer-structures.csv")
    assert len(each) == 2 * 3  # soft and expected Dice of three classes
    assert (areas["aurc_ideal"] <= areas["aurc"]).all()
    for name in ("refer", "refer-cases"):
        assert (run / f"decisions/{name}.png").stat().st_size > 10_000


def test_the_pictures_are_of_the_least_confident(run: Path) -> None:
    test = TestRun.load(run / "test/best/bins.npz")
    pictures = load_pictures(run / "test/best/unsure.npz")
    confidence = case_confidences(test)["soft_dice"]
    expected = sorted(range(len(confidence)), key=lambda n: (confidence[n], n))[:4]
    assert [p.index for p in pictures] == expected
    np.testing.assert_allclose([p.soft_dice for p in pictures], confidence[expected])


def test_another_confidence_orders_otherwise(run: Path, capsys) -> None:
    assert main(["refer", str(run), "--confidence", "entropy_all"]) == 0
    out = capsys.readouterr().out
    assert "By entropy of all voxels" in out
    assert "Pictures of the cases with the lowest soft Dice confidence: refer-cases.png" in out
    assert "PHANTOM" not in out  # a fake download counts as real data
    table = pd.read_csv(run / "decisions/refer.csv")
    assert table["entropy_all"].is_monotonic_increasing


def test_an_ensemble_has_the_agreement_of_its_members(run: Path, tmp_path: Path, refusal) -> None:
    assert "is that of an ensemble" in refusal("refer", str(run), "--confidence", "agreement")
    args = ["--post_hoc.members", f"[{run}]", "--tag", "twice"]
    assert main(["evaluate", str(run), *args]) == 0
    found = case_confidences(TestRun.load(run / "test/twice/bins.npz"))
    np.testing.assert_array_equal(found["agreement"], 1)  # of a network with itself


def test_one_network_has_no_agreement_and_is_not_tested_for_it(
    tmp_path: Path, refusal: Callable[..., str]
) -> None:
    (tmp_path / "run.json").write_text("{}")  # nothing to test: a pass would fail otherwise
    said = refusal("refer", str(tmp_path), "--confidence", "agreement")
    assert "agreement is that of an ensemble" in said
    assert "is one network" in said


def test_a_run_is_needed(refusal: Callable[..., str]) -> None:
    assert "Name a run folder" in refusal("refer")


def test_an_audit_is_cross_fitted(tmp_path: Path, capsys) -> None:
    cases = ["a", "b", "c", "d", "e", "f"]
    labels = write_labels(tmp_path / "labels", cases)
    for case in cases:
        write_npz(tmp_path / f"maps/{case}.npz", probabilities(case))
    output = tmp_path / "audit"
    args = ["--labels", str(labels), "--output", str(output)]
    assert main(["audit", str(tmp_path / "maps"), *args]) == 0
    capsys.readouterr()
    assert main(["refer", str(output), "--share", "0.4", "--groups", "3"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "The 6 least confident of 6 cases" in shown
    assert "chosen without the patients of its group, of 3 at random" in shown
    assert json.loads((output / "decisions/refer.json").read_text())["level"] is None
    assert not (output / "decisions/refer-cases.png").exists()  # there are no images
