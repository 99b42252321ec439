"""``mbls audit``: its files, table and refusals; regions; a real folder of nnU-Net."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from mbls.cli import main
from mbls.commands.audit import predictor_of
from mbls.evaluation import TestRun, load_results
from mbls.metrics import CalibrationHistogram
from mbls.predictions import open_predictions
from mbls.report.runs import find_runs
from tests.predictions.made import (
    CASES,
    label,
    probabilities,
    save,
    write_labels,
    write_nnunet,
    write_npz,
)

pytestmark = pytest.mark.usefixtures("few_draws")


def test_folds_of_nnunet_leave_a_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    results = write_nnunet(tmp_path, {0: CASES[:2], 1: CASES[2:]})
    labels = write_labels(tmp_path / "labelsTr", [*CASES, "unseen"])
    args = ["audit", str(results), "--labels", str(labels), "--patient", "^[a-z]+"]
    assert main([*args, "--name", "ours"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Dataset007_Tiny: 3 cases, validation of fold 0, 1" in shown
    assert "1 labels have no prediction: unseen" in shown
    assert "case 3 of 3, other: " in shown
    assert "Dataset007_Tiny: 3 cases of 2 patients · ours" in shown
    folder = tmp_path / "runs/audit/ours"
    assert {p.name for p in folder.iterdir()} >= {"run.json", "config.yaml", "audit.log", "test"}
    assert (folder / "audit.log").read_text().count("case ") == 3
    card = json.loads((folder / "run.json").read_text())
    assert (card["loss"], card["audit"]["folds"]) == ("ours", [0, 1])
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"] == {"loss": "ours"}
    tested = load_results(folder / "test/best")
    assert tested.cases["patient"].tolist() == ["case", "case", "other"]
    for row, case in enumerate(CASES):
        histogram = CalibrationHistogram(3, regions=("all",), num_cases=1)
        probs, target = (np.asarray(f(case))[None] for f in (probabilities, label))
        histogram.update(torch.from_numpy(probs), torch.from_numpy(target), index=torch.zeros(1))
        found = tested.bins.cells[row, tested.bins.regions.index("all")]
        np.testing.assert_array_equal(found, histogram.bins().cells[0, 0])
    (run,), _ = find_runs([folder])
    assert run.audited
    assert main([*args, "--name", "ours"]) == 0  # again, over its own results


def test_the_files_of_a_predictor_are_known_again(tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels", ["a", "b"])
    for case in "ab":
        write_npz(tmp_path / f"maps/{case}.npz", probabilities(case))

    def predictor(place: str = "maps") -> str:
        return predictor_of(open_predictions(tmp_path / place, labels=labels))

    first = predictor()
    assert predictor() == first
    (tmp_path / "maps").rename(tmp_path / "moved")
    assert predictor("moved") == first
    file = tmp_path / "moved/a.npz"
    time = file.stat().st_mtime_ns
    os.utime(file, ns=(time, time + 1000))
    assert predictor("moved") != first
    os.utime(file, ns=(time, time))
    assert predictor("moved") == first
    (tmp_path / "moved/b.npz").unlink()
    assert predictor("moved") != first
    out = tmp_path / "out"
    args = ["--labels", str(labels), "--output", str(out)]
    assert main(["audit", str(tmp_path / "moved"), *args]) == 0
    assert TestRun.load(out / "test/best/bins.npz").meta["predictor"] == predictor("moved")


def test_regions_are_problems_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = {"background": 0, "whole organ": [1, 2], "core": [2]}
    results = write_nnunet(
        tmp_path, {0: CASES}, labels=table, classes=2, regions_class_order=[1, 2]
    )
    labels = write_labels(tmp_path / "labels")
    out = tmp_path / "out"
    assert main(["audit", str(results), "--labels", str(labels), "--output", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "2 regions: whole organ, core" in shown
    for number, name in enumerate(("whole-organ", "core")):
        tested = TestRun.load(out / name / "test/best/bins.npz")
        inside = label("other") >= number + 1
        likely = probabilities("other", 2)[number] > 0.5
        both = [(likely & inside).sum(), likely.sum(), inside.sum()]
        np.testing.assert_array_equal(tested.dice[2, 1], both)
        dice = json.loads((out / name / "test/best/metrics.json").read_text())["dice"]
        assert f"{dice['mean']['value']:.4f}" in shown
    runs, left_out = find_runs([out])
    assert not left_out
    assert {run.meta["region"] for run in runs} == {"whole organ", "core"}


def test_renormalized_voxels_are_counted_on_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = write_labels(tmp_path / "labels", ["a"])
    write_npz(tmp_path / "maps/a.npz", probabilities("a").astype(np.float16))
    args = ["--labels", str(labels), "--output", str(tmp_path / "out")]
    assert main(["audit", str(tmp_path / "maps"), *args]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 of 1 maps are float16" in shown
    assert "voxels of 1 cases renormalized" in shown


def test_wrong_arguments_are_named(tmp_path: Path, refusal: Callable[..., str]) -> None:
    labels = write_labels(tmp_path / "labels", ["a"])
    maps = tmp_path / "maps"
    save(maps / "a.nii.gz", 5 * probabilities("a").transpose(1, 2, 3, 0))
    args = ["audit", str(maps), "--labels", str(labels), "--output", str(tmp_path / "out")]
    assert "logits, not probabilities" in refusal(*args)
    assert not (tmp_path / "out").exists()
    assert "--name must have letters" in refusal(*args, "--name", "a,b")
    assert "Unknown option --lables" in refusal("audit", str(maps), "--lables", "x")
    save(maps / "a.nii.gz", probabilities("a").transpose(1, 2, 3, 0))
    assert main(args) == 0
    other = tmp_path / "other"
    maps.rename(other)
    error = refusal("audit", str(other), *args[2:])
    assert f"out has results of {maps}. Choose another NAME" in error


@pytest.mark.skipif(
    "MBLS_NNUNET_RESULTS" not in os.environ,
    reason="MBLS_NNUNET_RESULTS names no results folder of nnU-Net v2 with --npz, and its labels "
    "(MBLS_NNUNET_LABELS)",
)
def test_a_folder_that_nnunet_wrote(tmp_path: Path) -> None:
    """Its Dice is that of nnU-Net's summary.json, and its label maps are the likeliest classes."""
    results, labels = (Path(os.environ[f"MBLS_NNUNET_{n}"]) for n in ("RESULTS", "LABELS"))
    out = tmp_path / "out"
    assert main(["audit", str(results), "--labels", str(labels), "--output", str(out)]) == 0
    source = open_predictions(results, labels=labels)
    assert source.format == "nnunet"
    summaries = [p.parent / "summary.json" for p in results.glob("fold_*/validation/summary.json")]
    theirs = {
        Path(case["prediction_file"]).name.removesuffix(".nii.gz"): case["metrics"]
        for path in summaries
        for case in json.loads(path.read_text())["metric_per_case"]
    }
    folders = [out] if source.kind == "classes" else sorted(p.parent for p in out.glob("*/test"))
    assert len(folders) == (1 if source.kind == "classes" else len(source.class_names))
    for case in source.cases:
        found = source.read(case)
        path = source.found[case].stored.paths[0].with_suffix(".nii.gz")
        *_, written = source.write(tmp_path / "written", case, found.probs)
        masks = [np.asarray(nib.load(one).dataobj) for one in (path, written)]
        np.testing.assert_array_equal(*masks)
    if source.kind == "classes":
        table = load_results(out / "test/best").cases.set_index("case")
        for case in source.cases:
            for k, name in enumerate(source.class_names[1:], 1):
                assert table.loc[case, f"dice/{name}"] == pytest.approx(
                    theirs[case][str(k)]["Dice"], abs=1e-9
                )
