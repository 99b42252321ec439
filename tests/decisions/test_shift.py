"""``mbls shift`` and ``mbls evaluate --corrupt``: tests of corrupted images, resumed, as curves."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import Trainer

from mbls.callbacks import Corrupt
from mbls.cli import main
from mbls.decisions import Target, case_scores, choose, threshold_counts
from mbls.decisions.quantities import quantities_of
from mbls.decisions.shift import at_thresholds
from mbls.evaluation import TestRun
from mbls.evaluation.corruptions import Corrupted
from mbls.report.runs import find_runs
from mbls.runtime.errors import SettingError
from tests import few

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short 2D run on a fake ACDC download, tested under noise and less contrast."""
    folder = tmp_path_factory.mktemp("acdc")
    assert main(["train", *few.acdc_args(folder)]) == 0
    (found,) = (folder / "runs").glob("*/*/seed*")
    args = ["--corruptions", "noise gamma", "--target", "recall:0.9"]
    assert main(["shift", str(found), *args]) == 0
    return found


def counted(run: Path, tag: str) -> TestRun:
    return TestRun.load(run / "test" / tag / "bins.npz")


def test_each_level_is_a_test_of_its_own(run: Path) -> None:
    tags = {path.name for path in (run / "test").iterdir()}
    levels = {f"best~{name}-{level}" for name in ("noise", "gamma") for level in (1, 2, 3)}
    assert tags == {"best", *levels}
    clean, noisy = counted(run, "best"), counted(run, "best~noise-3")
    assert noisy.meta["corruption"] == "noise:3"
    assert noisy.meta["corruption_strength"] == 1.0
    assert "corruption" not in clean.meta
    assert noisy.meta["predictor"] == clean.meta["predictor"]
    assert noisy.cases == clean.cases
    assert not np.array_equal(noisy.bins.cells, clean.bins.cells)
    np.testing.assert_array_equal(noisy.dice[..., 2], clean.dice[..., 2])  # labels stay
    assert not list((run / "test/best~noise-3").glob("*.png"))  # of each level they would be many
    assert (run / "test/best/reliability.png").is_file()


def test_the_curves_are_those_of_the_tests(run: Path) -> None:
    table = pd.read_csv(run / "decisions/shift.csv")
    assert len(table) == 7
    for row in table.to_dict("records"):
        tag = "best" if row["level"] == 0 else f"best~{row['corruption']}-{row['level']}"
        metrics = json.loads((run / "test" / tag / "metrics.json").read_text())
        assert row["dice"] == pytest.approx(metrics["dice"]["mean"]["value"])
        assert row["ece"] == pytest.approx(metrics["sound"]["all"]["pooled"]["ece"]["value"])
        label = metrics["sound"]["label"]["per_case"]["ece"]
        assert (row["ece_label"], row["ece_label_low"]) == pytest.approx(
            (label["value"], label["low"])
        )
    assert (run / "decisions/shift.png").stat().st_size > 10_000


def test_the_measure_at_thresholds_is_that_of_validation_thresholds(run: Path) -> None:
    validation = TestRun.load(run / "decisions/val-bins.npz")
    thresholds = choose(validation, Target.parse("recall:0.9"))
    test = counted(run, "best~gamma-3")
    places = [round(60 * value) for value in thresholds.values.values()]
    counts = threshold_counts(test.bins)
    each = [case_scores(counts[:, s, k])["recall"] for s, k in enumerate(places)]
    table = pd.read_csv(run / "decisions/shift.csv").query("corruption == 'gamma' and level == 3")
    assert table["at_thresholds"].item() == pytest.approx(np.nanmean(np.nanmean(each, axis=0)))
    value, low, high = at_thresholds(test, thresholds)
    assert low <= value <= high


def test_done_tests_are_not_repeated(run: Path, capsys) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run / "test").glob("*/metrics.json")}
    broken = run / "test/best~noise-2"
    metrics = json.loads((broken / "metrics.json").read_text())
    metrics["meta"]["corruption_strength"] = 0.4  # of another version's table
    (broken / "metrics.json").write_text(json.dumps(metrics))
    (run / "test/best~gamma-1/bins.npz").unlink()
    capsys.readouterr()
    assert main(["shift", str(run), "--corruptions", "noise,gamma"]) == 0
    out = capsys.readouterr().out
    assert ("noise:2" in out, "gamma:1" in out) == (True, True)
    assert "noise:1\n" not in out
    after = {path: path.stat().st_mtime_ns for path in before}
    changed = {path.parent.name for path in before if before[path] != after[path]}
    assert changed == {"best~noise-2", "best~gamma-1"}


def test_a_corrupted_test_is_the_same_again(run: Path, tmp_path: Path) -> None:
    args = ["--corrupt", "noise:2", "--tag", "again", "--results.show", "false"]
    assert main(["evaluate", str(run), *args]) == 0
    first, again = counted(run, "best~noise-2"), counted(run, "again")
    assert np.array_equal(first.bins.cells, again.bins.cells)


def test_a_report_has_corrupted_tests_on_request_alone(run: Path) -> None:
    (clean,), _ = find_runs([run])
    assert clean.post_hoc == ""
    (noisy,), _ = find_runs([run], tag="best~noise-3")
    assert noisy.post_hoc == "~noise:3"


def test_runs_and_calibrators_are_lines(run: Path, refusal: Callable[..., str]) -> None:
    args = ["--corruptions", "gamma", "--calibrator", "temperature"]
    before = {path.name for path in (run / "test").iterdir()}
    assert f"fit it with make calibrate RUN={run}" in refusal("shift", str(run), *args)
    assert {path.name for path in (run / "test").iterdir()} == before  # refused before any test
    assert main(["calibrate", "--run", str(run)]) == 0
    assert main(["shift", str(run), *args]) == 0
    folders = [run / "decisions", run / "decisions/best+temperature"]
    raw, calibrated = (pd.read_csv(folder / "shift.csv") for folder in folders)
    assert set(raw["run"]) | set(calibrated["run"]) == {"mbls", "mbls+ts"}
    assert not raw.set_index(["corruption", "level"]).index.has_duplicates
    np.testing.assert_allclose(raw["dice"], calibrated["dice"], atol=0.02)
    assert not np.allclose(raw["ece"], calibrated["ece"])
    assert counted(run, "best~gamma-3+temperature").meta["calibrator"] == "temperature"


def test_the_coverage_is_that_of_validation_intervals(run: Path, refusal) -> None:
    assert "a larger ALPHA" in refusal(
        "shift", str(run), "--corruptions", "noise", "--alpha", "0.1"
    )
    assert main(["shift", str(run), "--corruptions", "noise", "--alpha", "0.5"]) == 0
    table = pd.read_csv(run / "decisions/shift.csv").set_index("level")
    validation = TestRun.load(run / "decisions/val-bins.npz")
    test = counted(run, "best~noise-3")
    inside = []
    for one, other in zip(quantities_of(test), quantities_of(validation), strict=True):
        if one.unit == "ml":
            scores = sorted(other.scores().values())
            reach = scores[int(np.ceil(0.5 * (len(scores) + 1))) - 1] * one.scale
            right = np.abs(one.labeled - one.expected) <= reach
            inside.append([right[np.array(one.patients) == p].all() for p in set(one.patients)])
    assert table.loc[3, "coverage"] == pytest.approx(np.mean(inside))


def test_what_cannot_be_tested_is_refused(run: Path, refusal: Callable[..., str]) -> None:
    assert "Name one run folder" in refusal("shift")
    error = refusal("shift", str(run), "--corruptions", "nosie")
    assert "no corruption 'nosie'. Did you mean 'noise'?" in error
    assert "have 1: choose another" in refusal("shift", str(run), "--corruptions", "missing")
    assert "with a level of 1, 2, 3, got" in refusal("evaluate", str(run), "--corrupt", "blur:9")


def test_the_callback_replaces_images_of_tests_alone() -> None:
    image = torch.randn(2, 1, 8, 8, 4)
    batch = {"image": image.clone(), "case": ["a", "b"], "spacing": torch.ones(2, 3)}
    callback = Corrupt(image="noise:1")
    given = batch["image"]
    callback.on_test_batch_start(Trainer, None, batch, 0)
    assert torch.equal(given, image)  # a cached image must not change
    for n, case in enumerate("ab"):
        expected = Corrupted.parse("noise:1").apply(image[n], case, [1, 1, 1])
        assert torch.equal(batch["image"][n], expected)
    assert "on_validation_batch_start" not in vars(Corrupt)
    with pytest.raises(SettingError, match="no corruption"):
        Corrupt(image="fog:1")
