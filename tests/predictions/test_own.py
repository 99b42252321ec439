"""An audit of our own probabilities equals the run's own test, and a report compares them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mbls.cli import main
from mbls.evaluation import TestRun
from mbls.report.groups import groups_of
from mbls.report.runs import find_runs
from tests import few, tiny

pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = "background,right ventricle,myocardium,left ventricle"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run, tested on the grid of the files too."""
    folder = tmp_path_factory.mktemp("own")
    assert main(["train", *few.acdc_args(folder)]) == 0
    run = tiny.run_folder(folder)
    assert main(["evaluate", str(run), "--grid", "native"]) == 0
    return run


@pytest.fixture(scope="module")
def audited(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the audit of the probabilities that the run predicts for the test files."""
    folder = tmp_path_factory.mktemp("audited")
    testing = run.parents[3] / "ACDC" / "database" / "testing"
    cases = TestRun.load(run / "test/best/bins.npz").cases
    (folder / "images").mkdir()
    for case in cases:
        shutil.copy(testing / case.partition("_")[0] / f"{case}.nii.gz", folder / "images")
    args = ["--run", str(run), "--input", str(folder / "images"), "--output", str(folder / "maps")]
    assert main(["predict", *args, "--probabilities"]) == 0
    args = ["--labels", str(testing), "--name", "exported", "--output", str(folder / "out")]
    args += ["--dataset", "blobs", "--class-names", NAMES, "--patient", "patient[0-9]+"]
    assert main(["audit", str(folder / "maps"), *args]) == 0
    return folder / "out"


def test_the_counts_are_those_of_the_run_to_the_last_digit(run: Path, audited: Path) -> None:
    ours = dict(np.load(run / "test/best-native/bins.npz"))
    theirs = dict(np.load(audited / "test/best/bins.npz"))
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {"meta"}:
        assert ours[name].dtype == theirs[name].dtype, name
        assert ours[name].tobytes() == theirs[name].tobytes(), name


def test_all_numbers_are_those_of_the_run(run: Path, audited: Path) -> None:
    ours, theirs = (
        json.loads((folder / "metrics.json").read_text())
        for folder in (run / "test/best-native", audited / "test/best")
    )
    assert ours.pop("meta")["nsd_tolerance_mm"] == theirs.pop("meta")["nsd_tolerance_mm"]
    assert ours == theirs
    tables = [f / "cases.csv" for f in (run / "test/best-native", audited / "test/best")]
    assert tables[0].read_bytes() == tables[1].read_bytes()


def test_a_report_has_the_audit_in_the_table_of_the_runs(run: Path, audited: Path) -> None:
    places = [run.parents[1], audited]
    shutil.copytree(run / "test/best-native", run / "test/both")
    shutil.copytree(audited / "test/best", audited / "test/both")
    runs, left_out = find_runs(places, tag="both")
    assert not left_out
    groups, repeated = groups_of(runs)
    assert not repeated
    (group,) = groups
    assert [arm.name for arm in group.arms] == ["exported", "mbls"]
    assert group.facts["data fingerprint"] != "None"
    assert any(note.startswith("exported: predictions of another") for note in group.notes)
    output = audited.parent / "report"
    args = ["report", *map(str, places), "--output", str(output), "--tag", "both"]
    assert main([*args, "--no-pictures"]) == 0
    assert "exported" in (output / "report.html").read_text()


def test_other_labels_are_another_table(run: Path, audited: Path, tmp_path: Path) -> None:
    other = shutil.copytree(audited, tmp_path / "other")
    tested = TestRun.load(other / "test/best/bins.npz")
    tested.dice[0, 1, 2] += 1
    tested.save(other / "test/best/bins.npz")
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/test/best")
    (tmp_path / "run/test/best-native").rename(tmp_path / "run/test/best")
    runs, _ = find_runs([tmp_path])
    assert len(groups_of(runs)[0]) == 2
    shutil.copy(audited / "test/best/bins.npz", other / "test/best/bins.npz")
    runs, _ = find_runs([tmp_path])
    assert len(groups_of(runs)[0]) == 1
