"""``mbls thresholds``: a run, an audit, and runs side by side."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mbls.cli import main
from mbls.commands import decisions
from mbls.decisions import Target, case_scores, choose, threshold_counts
from mbls.decisions.choice import Thresholds
from mbls.evaluation import TestRun
from tests import few
from tests.report.fake import write_run

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short 2D run on a fake ACDC download, tested, with thresholds for Dice."""
    folder = tmp_path_factory.mktemp("acdc")
    assert main(["train", *few.acdc_args(folder)]) == 0
    (found,) = (folder / "runs").glob("*/*/seed*")
    assert main(["thresholds", str(found)]) == 0
    return found


def counted(run: Path, name: str = "test/best/bins.npz") -> TestRun:
    return TestRun.load(run / name)


def test_thresholds_are_chosen_on_validation_patients(run: Path) -> None:
    chosen = Thresholds.load(run / "decisions/dice.json")
    validation, test = counted(run, "decisions/val-bins.npz"), counted(run)
    trained = json.loads((run / "run.json").read_text())["trained_on"]
    assert set(chosen.patients) == set(validation.patients) <= set(trained)
    assert not set(chosen.patients) & set(test.patients)
    assert chosen == choose(validation, Target.parse("dice"))
    assert chosen.class_keys == tuple(test.meta["class_keys"])


def test_the_results_are_those_of_the_test_patients(run: Path) -> None:
    chosen, test = Thresholds.load(run / "decisions/dice.json"), counted(run)
    table = pd.read_csv(run / "decisions/dice.csv")
    scores = case_scores(threshold_counts(test.bins))
    for place, (key, threshold) in enumerate(chosen.values.items(), 1):
        rows = table[table.structure == test.meta["class_names"][place]].set_index("measure")
        at = scores["dice"][:, place - 1, round(threshold * 60)]
        assert rows.at_threshold["dice"] == pytest.approx(np.nanmean(at)), key
        assert rows.argmax["dice"] == pytest.approx(np.nanmean(test.overlaps["dice"][:, place]))
    curves = pd.read_csv(run / "decisions/curves.csv")
    assert set(curves.pooling) == {"per_case", "pooled"}
    assert len(curves) == 2 * 60 * 6 * (len(chosen.values) + len(chosen.unions))
    assert (run / "decisions/dice.png").stat().st_size > 10_000


def test_another_target_needs_no_inference(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("a pass of the network")

    monkeypatch.setattr("mbls.config.cli.command_line", refused)
    assert main(["thresholds", str(run), "--target", "recall:0.95"]) == 0
    chosen = Thresholds.load(run / "decisions/recall-95.json")
    recall = case_scores(threshold_counts(counted(run, "decisions/val-bins.npz").bins))["recall"]
    for place, threshold in enumerate(chosen.values.values()):
        k = round(threshold * 60)
        assert np.nanmean(recall[:, place, k]) >= 0.95 > np.nanmean(recall[:, place, k + 1])
    newer = (run / "decisions/val-bins.npz").stat().st_mtime + 10
    os.utime(run / "checkpoints/best.ckpt", (newer, newer))
    assert main(["thresholds", str(run)]) == 1  # the network has changed
    os.utime(run / "checkpoints/best.ckpt", (newer - 20, newer - 20))


def test_counts_of_an_earlier_version_are_counted_again_if_need_be(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = counted(run).voxel_ml
    assert size is not None
    assert (size > 0).all()
    files = [run / "test/best/bins.npz", run / "decisions/val-bins.npz"]
    for file in files:
        replace(TestRun.load(file), voxel_ml=None).save(file)
    found = decisions.counted(run, [])
    assert found.test.voxel_ml is None  # not needed
    found = decisions.counted(run, [], needs=["voxel_ml"])
    assert found.test.voxel_ml.tolist() == size.tolist()
    assert found.validation.voxel_ml is not None
    monkeypatch.setattr(decisions, "evaluate", None)
    decisions.counted(run, [], needs=["voxel_ml"])


def test_the_choice_never_sees_the_test(run: Path) -> None:
    """With labels of the test that say the opposite, the thresholds are the same."""
    before = (run / "decisions/dice.json").read_bytes()
    file = run / "test/best/bins.npz"
    kept = file.read_bytes()
    test = counted(run)
    test.bins.cells[..., 1] = test.bins.cells[..., 0] - test.bins.cells[..., 1]
    poisoned = test.dice[..., [1, 0, 2]]
    TestRun(test.bins, poisoned, test.cases, test.patients, test.meta).save(file)
    changed = choose(counted(run), Target.parse("dice"))
    assert changed.values != json.loads(before)["values"]  # it would have made a difference
    results = (run / "decisions/dice.csv").read_bytes()
    assert main(["thresholds", str(run)]) == 0
    assert (run / "decisions/dice.json").read_bytes() == before
    assert (run / "decisions/dice.csv").read_bytes() != results
    file.write_bytes(kept)
    assert main(["thresholds", str(run)]) == 0


def test_a_test_patient_among_the_validation_is_refused(
    run: Path, refusal: Callable[..., str]
) -> None:
    file = run / "decisions/val-bins.npz"
    kept, validation = file.read_bytes(), counted(run, "decisions/val-bins.npz")
    seen = counted(run).patients[0]
    patients = [seen, *validation.patients[1:]]
    TestRun(validation.bins, validation.dice, validation.cases, patients, validation.meta).save(
        file
    )
    assert f"chosen on 1 of the test patients ({seen})" in refusal("thresholds", str(run))
    file.write_bytes(kept)


def test_calibrated_probabilities_have_their_own_thresholds(run: Path) -> None:
    assert main(["calibrate", "--run", str(run)]) == 0
    calibrator = str(run / "calibrators/temperature.json")
    assert main(["thresholds", str(run), "--calibrator", calibrator]) == 0
    chosen = Thresholds.load(run / "decisions/best+temperature/dice.json")
    assert chosen.calibrator == "temperature"
    assert Thresholds.load(run / "decisions/dice.json").calibrator is None
    raw, after = (
        counted(run, f"decisions/{where}val-bins.npz") for where in ("", "best+temperature/")
    )
    assert not np.array_equal(raw.bins.cells, after.bins.cells)
    assert np.array_equal(raw.dice, after.dice)


def test_after_another_fit_validation_and_test_are_counted_again(
    run: Path, refusal: Callable[..., str]
) -> None:
    file = run / "calibrators/temperature.json"
    command = ["thresholds", str(run), "--calibrator", str(file)]
    assert main(command) == 0
    chosen = run / "decisions/best+temperature/dice.json"
    earlier, before = chosen.read_bytes(), counted(run, "test/best+temperature/bins.npz")
    content = json.loads(file.read_text())
    content["parameters"]["temperature"] *= 2
    older = file.stat().st_mtime
    file.write_text(json.dumps(content))
    os.utime(file, (older, older))  # as a copy may be
    assert main(command) == 0
    after = counted(run, "test/best+temperature/bins.npz")
    validation = counted(run, "decisions/best+temperature/val-bins.npz")
    assert not np.array_equal(before.bins.cells, after.bins.cells)
    assert after.meta["probabilities"] == validation.meta["probabilities"]
    chosen.write_bytes(earlier)
    command = ["evaluate", str(run), "--calibrator", str(file), "--decide", str(chosen)]
    assert "was chosen on other probabilities" in refusal(*command)


def test_an_audit_of_other_masks_alone_is_refused(
    tmp_path: Path, refusal: Callable[..., str]
) -> None:
    folder = write_run(tmp_path, card={"audit": {"predictions": "x"}})
    (folder / "test/best").rename(folder / "test/best+optimal-dice")
    assert "without DECIDE" in refusal("thresholds", str(folder))


def test_an_audit_is_cross_fitted(tmp_path: Path) -> None:
    folder = write_run(tmp_path, card={"audit": {"predictions": "x"}}, patients=6)
    assert main(["thresholds", str(folder), "--groups", "3"]) == 0
    chosen = Thresholds.load(folder / "decisions/dice.json")
    assert len(chosen.patients) == 6
    table = pd.read_csv(folder / "decisions/dice.csv")
    assert set(table.structure) == {"right ventricle", "myocardium"}
    assert table.threshold.isna().all()  # one of each group


def test_runs_are_drawn_side_by_side(tmp_path: Path, refusal: Callable[..., str]) -> None:
    audit = {"audit": {"predictions": "x"}}
    runs = [write_run(tmp_path, loss, card=audit, meta={"loss": loss}) for loss in ("ce", "dice")]
    named = " ".join(map(str, runs))
    assert main(["thresholds", "--runs", named, "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/thresholds.png").stat().st_size > 10_000
    other = write_run(tmp_path, "mbls", card=audit, first=20)
    assert "same cases" in refusal("thresholds", "--runs", f"{runs[0]} {other}")


def test_what_cannot_be_done_is_said(tmp_path: Path, refusal: Callable[..., str]) -> None:
    assert "Name one run folder" in refusal("thresholds")
    assert "not a run folder" in refusal("thresholds", str(tmp_path))
    write_run(tmp_path / "WT", card={"audit": {}}).rename(tmp_path / "tumor")
    assert "regions tumor: name one" in refusal("thresholds", str(tmp_path))
    assert "TARGET (--target) must be" in refusal("thresholds", str(tmp_path), "--target", "f1")
    assert "OUTPUT" in refusal("thresholds", str(tmp_path), "--output", "x")
