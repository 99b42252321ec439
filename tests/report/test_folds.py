"""Runs of folds are summarized together: the mean over folds, or their patients pooled."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mbls.evaluation import TestRun
from mbls.metrics import ConfidenceSums
from mbls.report import build
from mbls.report.analysis import analyze
from mbls.report.figures import figures_of
from tests.report.fake import DRAWS, analysis_of, group_of, grouped, write_run


def of_fold(root: Path, loss: str, seed: int, fold: int, **options: Any) -> Path:
    """A run of a fold, whose split gives the data a fingerprint of their own."""
    meta = {"data_fingerprint": str(fold) * 64}
    data = {"class_path": "Data", "init_args": {"root": None, "division": {"fold": fold}}}
    given = {"patients": 3, "meta": meta, "config": {"data": data}, "card": {"fold": fold}}
    return write_run(root, loss, seed, **(given | options))


def test_folds_that_tested_the_same_cases_are_averaged(tmp_path: Path) -> None:
    for loss, sharpness in (("ce", 1.5), ("mbls", 1.0)):
        for seed in range(2):
            for fold in range(2):
                noise = 0.2 + 0.2 * fold
                some = {"sharpness": sharpness, "noise": noise, "pictures": True}
                folder = of_fold(tmp_path, loss, seed, fold, **some)
                (folder / "metrics.csv").write_text("epoch,step,train/lambda/rv\n0,9,0.5\n")
    (group,), left_out = grouped(tmp_path)
    assert not left_out
    assert {arm.name: arm.seeds for arm in group.arms} == {"ce": [0, 1], "mbls": [0, 1]}
    assert group.facts["fold"] == "mean of folds 0, 1"
    assert any("mean over its folds" in note for note in group.notes)
    found = analyze(group, draws=DRAWS)
    for key, path in {
        "dice/mean": ("dice", "mean"),
        "ece_corrected/all/pooled": ("sound", "all", "pooled", "ece_corrected"),
        "nll/label/per_case": ("sound", "label", "per_case", "nll"),
    }.items():
        for seed, value in enumerate(found.cells[key]["mbls"].by_seed):
            each = [stored(tmp_path / f"unet-mbls/seed{seed}-fold{f}", path) for f in range(2)]
            assert value == pytest.approx(np.mean(each), rel=1e-9)
    drawn = {one.name: one for one in figures_of(found)}
    lines = drawn["reliability_all"].figure.axes[0].lines
    assert len(lines) == 1 + 2 * 2  # the diagonal; each seed and fold
    assert drawn["multipliers_0"].title == "Multipliers of ce, seed 0, fold 0"
    assert not group.first.epochs  # they are those of a fold each
    assert "mean of folds 0, 1" in " ".join(drawn["worst_cases"].figure.get_suptitle().split())


def stored(folder: Path, path: tuple[str, ...]) -> float:
    found: Any = json.loads((folder / "test/best/metrics.json").read_text())
    for key in path:
        found = found[key]
    return float(found["value"])


@pytest.mark.usefixtures("no_report_figures")
def test_patients_of_folds_that_tested_their_own_are_pooled(tmp_path: Path) -> None:
    """As one test of all patients would be."""
    for seed in range(2):
        write_run(tmp_path / "whole", "ce", seed, patients=5)
        for fold, (first, patients) in enumerate(((0, 3), (3, 2))):
            of_fold(tmp_path / "folds", "ce", seed, fold, first=first, patients=patients)
    (whole,) = build.build_report([tmp_path / "whole"], tmp_path / "1", draws=DRAWS)
    (found,) = build.build_report([tmp_path / "folds"], tmp_path / "2", draws=DRAWS)
    assert found.group.facts["test cases"] == "10 cases of 5 patients"
    assert any("Patients are pooled over folds" in note for note in found.group.notes)
    for key, row in whole.cells.items():
        for name, cell in row.items():
            assert repr(found.cells[key][name]) == repr(cell), key
    assert {one.name for one in figures_of(found)} > {"dice_ece", "reliability_all", "cases"}
    with (tmp_path / "2/table.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert row["fold"] == "folds 0, 1, patients pooled"
    assert row["run_folders"].count("-fold") == 4
    assert (tmp_path / "2/report.html").read_text().count("seed1-fold1") >= 1


def test_a_seed_without_all_folds_is_left_out(tmp_path: Path) -> None:
    for fold in range(2):
        of_fold(tmp_path, "ce", 0, fold)
        of_fold(tmp_path, "mbls", 0, fold)
    alone = of_fold(tmp_path, "ce", 1, 0)
    other = of_fold(tmp_path, "mbls", 2, 0, meta={"data_fingerprint": "9" * 64})
    of_fold(tmp_path, "mbls", 2, 1)
    (group,), left_out = grouped(tmp_path)
    assert [arm.seeds for arm in group.arms] == [[0], [0]]
    assert {out.folder for out in left_out} == {alone, other, other.with_name("seed2-fold1")}
    assert all("only if all folds were tested" in out.reason for out in left_out)


def test_a_fold_that_was_trained_twice_counts_once(tmp_path: Path) -> None:
    """The training on the data of the other losses counts, not the one on other data."""
    for loss in ("ce", "mbls", "nacl"):
        for fold in range(2):
            of_fold(tmp_path, loss, 0, fold)
    stray = of_fold(tmp_path / "z", "ce", 0, 1, meta={"data_fingerprint": "9" * 64})
    (group,), left_out = grouped(tmp_path)
    assert {arm.name: arm.seeds for arm in group.arms} == {"ce": [0], "mbls": [0], "nacl": [0]}
    kept = tmp_path / "unet-ce/seed0-fold1"
    assert [run.folder for run in group.arms[0].trainings] == [kept.with_name("seed0-fold0"), kept]
    assert [out.folder for out in left_out] == [stray]


def test_of_two_trainings_of_a_fold_the_last_counts(tmp_path: Path) -> None:
    for fold in range(2):
        of_fold(tmp_path, "ce", 0, fold)
    again = of_fold(tmp_path / "z", "ce", 0, 1, meta={"data_fingerprint": "9" * 64})
    (group,), left_out = grouped(tmp_path)
    assert group.arms[0].trainings[1].folder == again
    assert [out.folder for out in left_out] == [tmp_path / "unet-ce/seed0-fold1"]


@pytest.mark.parametrize("pooled", [False, True])
def test_a_measure_that_one_fold_lacks_is_left_out(pooled: bool, tmp_path: Path) -> None:
    for fold in range(2):
        measured = ("hd95", "nsd") if fold == 0 else ("nsd",)
        of_fold(tmp_path, "ce", 0, fold, first=3 * fold * pooled, surfaces=measured)
    found = analysis_of(tmp_path)
    assert found.group.first.pooled == pooled
    assert "hd95/mean" not in found.cells
    assert "nsd/mean" in found.cells
    (caution,) = [text for text in found.cautions if "hd95/mean" in text]
    assert "hd95/mean (1)" in caution
    assert "some of 2 runs" in caution


@pytest.mark.parametrize("first", [0, 1])
def test_folds_that_cannot_come_together_stay_apart(first: int, tmp_path: Path) -> None:
    """No seed has all folds; or they share some patients, and not all."""
    of_fold(tmp_path, "ce", 0, 0)
    of_fold(tmp_path, "ce" if first else "mbls", 0, 1, first=first)
    groups, left_out = grouped(tmp_path)
    assert not left_out
    assert {group.facts["fold"] for group in groups} == {0, 1}
    assert all("nothing is averaged" in " ".join(group.notes) for group in groups)


def test_pooled_folds_keep_what_each_case_has(tmp_path: Path) -> None:
    """The size of voxels and the confidence, if all folds have them."""
    for fold, (first, patients) in enumerate(((0, 3), (3, 2))):
        file = of_fold(tmp_path, "ce", 0, fold, first=first, patients=patients)
        file /= "test/best/bins.npz"
        test, cases = TestRun.load(file), 2 * patients
        rows = 10 * fold + np.arange(cases, dtype=float)
        sums = ConfidenceSums(rows[:, None, None] * np.ones((3, 5)), rows[:, None] * np.ones(4))
        replace(test, voxel_ml=rows, confidence=sums).save(file)
    joined = group_of(tmp_path).first.counted()
    expected = [*range(6), *range(10, 14)]
    assert joined.voxel_ml.tolist() == expected
    assert joined.confidence.probability[:, 2, 4].tolist() == expected
    assert joined.confidence.entropy[:, 0].tolist() == expected
    replace(test, voxel_ml=rows).save(file)  # of an earlier version
    assert group_of(tmp_path).first.counted().confidence is None


def test_folds_that_tested_the_same_cases_have_no_single_histogram(tmp_path: Path) -> None:
    for fold in range(2):
        of_fold(tmp_path, "ce", 0, fold)
    with pytest.raises(ValueError, match=r"several tests of the same cases"):
        group_of(tmp_path).first.counted()
