"""Calibrated and averaged networks of finished runs: fit, test, prediction and report."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from mbls.callbacks.post_hoc import PostHoc
from mbls.cli import main
from mbls.commands.calibrate import compare, fit_on_validation
from mbls.commands.evaluate import run_settings
from mbls.config.ensembles import ensemble_folder, members_of
from mbls.config.options import parse, parser
from mbls.evaluation import TestRun
from mbls.evaluation.paired import differences
from mbls.losses import CrossEntropyLoss
from mbls.module import PostHocState, SegmentationModule
from mbls.posthoc.base import Calibrator
from mbls.report.build import build_report
from mbls.report.groups import groups_of
from mbls.report.runs import find_runs
from mbls.runtime.errors import RunFolderError
from tests import few, tiny

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of a short 2D run on a fake ACDC download, tested."""
    folder = tmp_path_factory.mktemp("acdc")
    args = few.acdc_args(folder)
    for seed in ("0", "1"):
        assert main(["train", *args, "--seed", seed]) == 0
    return sorted((folder / "runs").glob("*/*/seed*"))


@pytest.fixture(scope="module")
def calibrated(runs: list[Path]) -> Path:
    """The first run with two calibrators, fitted on its validation patients."""
    assert main(["calibrate", "--run", str(runs[0]), "--method", "temperature,vector"]) == 0
    return runs[0]


def counted(run: Path, tag: str) -> TestRun:
    return TestRun.load(run / "test" / tag / "bins.npz")


def test_a_temperature_is_fitted_on_validation_patients(calibrated: Path) -> None:
    file = calibrated / "calibrators/temperature.json"
    card = Calibrator.load(file).card
    before, after = counted(calibrated, "best"), counted(calibrated, "best+temperature")
    trained = json.loads((calibrated / "run.json").read_text())["trained_on"]
    assert set(card.patients) <= set(trained)
    assert not set(card.patients) & set(after.patients)
    assert after.meta["calibrator"] == "temperature"
    assert not np.array_equal(before.bins.cells, after.bins.cells)
    assert np.array_equal(before.dice, after.dice)  # a temperature changes no label
    assert after.meta["changed_voxels"] == [0] * len(after.cases)
    assert not list(calibrated.glob(".calibration*"))
    written = json.loads((calibrated / "test/best+temperature/calibration.json").read_text())
    assert [row["metric"] for row in written["differences"]][:1] == ["ECE, all voxels"]


def test_a_vector_counts_the_voxels_whose_class_changes(calibrated: Path) -> None:
    before, after = counted(calibrated, "best"), counted(calibrated, "best+vector")
    changed = after.meta["changed_voxels"]
    assert sum(changed) > 0
    # predicted voxels of a class that came or went are a part of those that changed
    moved = np.abs(after.dice[:, :, 1] - before.dice[:, :, 1])[:, : len(after.meta["class_names"])]
    assert (moved.sum(axis=1) <= 2 * np.array(changed)).all()


def test_a_temperature_of_each_place_looks_at_the_image(runs: list[Path], tmp_path: Path) -> None:
    assert main(["calibrate", "--run", str(runs[1]), "--method", "local_temperature"]) == 0
    before, after = (counted(runs[1], tag) for tag in ("best", "best+local_temperature"))
    assert np.array_equal(before.dice, after.dice)
    assert not np.array_equal(before.bins.cells, after.bins.cells)
    source = next((runs[1].parents[3] / "ACDC").rglob("*frame01.nii.gz"))
    file = runs[1] / "calibrators/local_temperature.json"
    args = ["--run", str(runs[1]), "--input", str(source), "--output", str(tmp_path)]
    assert main(["predict", *args, "--calibrator", str(file)]) == 0


def test_differences_are_those_of_the_two_tests(calibrated: Path) -> None:
    before, after = counted(calibrated, "best"), counted(calibrated, "best+temperature")
    found = {each.name: each for each in differences(before, after)}
    for name, run in (("before", before), ("after", after)):
        pooled = run.summary()["sound"]["all"]["pooled"]
        assert getattr(found["NLL, all voxels"], name) == pytest.approx(pooled["nll"]["value"])
    assert found["Dice"].change == 0
    assert all(each.change == 0 for each in differences(before, before))


def test_a_calibrator_never_sees_a_test_patient(
    calibrated: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    file = tmp_path / "seen.json"
    content = json.loads((calibrated / "calibrators/temperature.json").read_text())
    patient = counted(calibrated, "best").patients[0]
    file.write_text(json.dumps(content | {"patients": [patient]}))
    args = ["evaluate", str(calibrated), "--calibrator", str(file)]
    assert "--tag" in refusal(*args)  # another run's would take the place of its own
    error = refusal(*args, "--tag", "seen")
    assert patient in error
    assert "fitted" in error


def test_predictions_are_calibrated_on_the_way(calibrated: Path, tmp_path: Path) -> None:
    source = next((calibrated.parents[3] / "ACDC").rglob("*frame01.nii.gz"))
    maps = {}
    for name, more in {"raw": [], "cal": ["temperature"]}.items():
        files = [str(calibrated / f"calibrators/{each}.json") for each in more]
        options = ["--probabilities", *(["--calibrator", *files] if files else [])]
        args = ["--run", str(calibrated), "--input", str(source), "--output", str(tmp_path / name)]
        assert main(["predict", *args, *options]) == 0
        (file,) = (tmp_path / name).glob("*_prob.nii.gz")
        maps[name] = torch.from_numpy(np.asarray(nib.load(file).dataobj)).movedim(-1, 0)
    calibrator = Calibrator.load(calibrated / "calibrators/temperature.json")
    expected = calibrator.apply(maps["raw"].clamp_min(1e-38).log(), dim=0).exp()
    torch.testing.assert_close(maps["cal"], expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(maps["raw"], maps["cal"], atol=1e-4)


def test_an_ensemble_is_the_mean_of_its_networks_probabilities(
    runs: list[Path], tmp_path: Path
) -> None:
    source = next((runs[0].parents[3] / "ACDC").rglob("*frame01.nii.gz"))
    wanted = {"one": ["--run", str(runs[0])], "other": ["--run", str(runs[1])]}
    wanted["both"] = ["--runs", " ".join(f"'{run}'" for run in runs)]
    maps = {}
    for name, chosen in wanted.items():
        args = [*chosen, "--input", str(source), "--output", str(tmp_path / name)]
        assert main(["predict", *args, "--probabilities", "--uncertainty"]) == 0
        (file,) = (tmp_path / name).glob("*_prob.nii.gz")
        maps[name] = np.asarray(nib.load(file).dataobj, dtype=np.float64)
    mean = (maps["one"] + maps["other"]) / 2
    np.testing.assert_allclose(maps["both"], mean, atol=1e-6)
    (file,) = (tmp_path / "both").glob("*_entropy.nii.gz")
    entropy = -(mean * np.log(mean)).sum(-1)
    np.testing.assert_allclose(nib.load(file).get_fdata(), entropy, atol=1e-5)
    assert list((tmp_path / "both").glob("*_mutual_information.nii.gz"))
    assert not list((tmp_path / "one").glob("*_mutual_information.nii.gz"))
    with (tmp_path / "both/uncertainty.csv").open() as table:
        (row,) = csv.DictReader(table)
    labels = [maps[name].argmax(-1) for name in ("one", "other")]
    both = [(labels[0] == k) & (labels[1] == k) for k in range(1, mean.shape[-1])]
    sizes = [(labels[0] == k).sum() + (labels[1] == k).sum() for k in range(1, mean.shape[-1])]
    dice = np.mean([2 * b.sum() / s for b, s in zip(both, sizes, strict=True) if s])
    assert float(row["pairwise_dice"]) == pytest.approx(dice, abs=1e-5)


def test_an_ensemble_is_tested_calibrated_and_reported(
    runs: list[Path], calibrated: Path, tmp_path: Path
) -> None:
    named = " ".join(f"'{run}'" for run in runs)
    assert main(["evaluate", "--runs", named]) == 0
    folder = ensemble_folder(runs)
    assert members_of(folder) == [run.resolve() for run in runs]
    assert folder.name == "ensemble-2"
    assert counted(folder, "best").meta["networks"] == 2
    assert main(["calibrate", "--run", str(folder)]) == 0
    output = tmp_path / "report"
    (analysis, *others) = build_report([folder.parent], output, draws=100)
    assert not others
    names = {arm.name for arm in analysis.group.arms}
    expected = {"mbls", "mbls+ts", "mbls+vs", "mbls x2", "mbls x2+ts"}
    assert names - {"mbls+local_temperature"} == expected


def test_checkpoints_of_a_run_are_averaged(runs: list[Path]) -> None:
    best, last = (runs[0] / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    assert main(["evaluate", "--runs", f"'{best}' '{last}'"]) == 0
    folder = ensemble_folder([best, last])
    assert members_of(folder) == [best.resolve(), last.resolve()]
    assert counted(folder, "best").meta["networks"] == 2


def test_runs_of_an_ensemble_must_fit(
    runs: list[Path],
    tmp_path: Path,
    refusal: Callable[..., str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert "differ" in refusal("evaluate", "--runs", f"'{runs[0]}' '{runs[0]}'")
    assert "not a run folder" in refusal("evaluate", "--runs", f"'{runs[0]}' '{tmp_path}'")
    with pytest.raises(SystemExit):
        main(["evaluate", "--runs", f"'{runs[0]}'"])
    assert "two or more folders" in capfd.readouterr().err
    other = tmp_path / "other"
    assert tiny.fit(*few.acdc_args(tmp_path), "--run", str(other)) == 0
    card = json.loads((other / "run.json").read_text())
    seen = counted(runs[0], "best").patients[0]
    (other / "run.json").write_text(json.dumps(card | {"trained_on": [seen]}))
    assert seen in refusal("evaluate", "--runs", f"'{runs[0]}' '{other}'")
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["data"]["init_args"]["preprocessing"]["spacing"] = [2.0, 2.0, 2.0]
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    assert "preprocessing" in refusal("evaluate", "--runs", f"'{runs[0]}' '{other}'")


def test_what_is_kept_for_a_fit_is_removed_when_it_fails(
    runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("mbls.posthoc.fit", broken)
    with pytest.raises(ZeroDivisionError):
        fit_on_validation(runs[1], runs[1], ["temperature"], [])
    assert not list(runs[1].glob(".calibration*"))


def test_the_order_of_the_runs_makes_no_other_ensemble(runs: list[Path]) -> None:
    folder = ensemble_folder(runs)
    assert ensemble_folder(runs[::-1]) == folder
    settings = dict(run_settings(folder, "best"))
    assert settings["post_hoc.members"] == json.dumps([str(runs[1].resolve())])
    own, first = (yaml.safe_load((f / "config.yaml").read_text()) for f in (folder, runs[0]))
    assert own["model"] == first["model"]


def test_an_ensemble_moves_with_its_runs(runs: list[Path], tmp_path: Path) -> None:
    folder = ensemble_folder(runs)
    parent = shutil.copytree(folder.parent, tmp_path / "moved")
    assert members_of(parent / folder.name) == [parent / run.name for run in runs]


def test_an_ensemble_has_the_checkpoints_of_its_members(
    runs: list[Path], tmp_path: Path, refusal: Callable[..., str]
) -> None:
    folder = ensemble_folder(runs)
    assert "ensemble" in refusal("evaluate", str(folder), "--ckpt", "last")
    broken = shutil.copytree(folder, tmp_path / "ensemble-2")
    assert "does not exist" in refusal("evaluate", str(broken))
    (broken / "run.json").write_text("{")
    assert "run.json" in refusal("evaluate", str(broken))


def test_an_ensemble_of_folds_has_no_validation_patients(
    runs: list[Path], tmp_path: Path, refusal: Callable[..., str]
) -> None:
    """Each was trained on by the networks of the other folds: a fit there would be too sure."""
    copies = [shutil.copytree(run, tmp_path / run.name) for run in runs]
    for fold, run in enumerate(copies):
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["data"]["init_args"]["division"]["fold"] = fold
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    folder = ensemble_folder(copies)
    assert folder.name == "ensemble-2-folds"
    card = json.loads((folder / "run.json").read_text())
    assert (card["ensemble"], card["fold"], card["data_fingerprint"]) == ("folds", None, None)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["data"]["init_args"]["division"]["fold"] is None
    for args in (["calibrate", "--run", str(folder)], ["thresholds", str(folder)]):
        assert "validation patient" in refusal(*args)


def test_overlapping_ensembles_are_not_independent(runs: list[Path], tmp_path: Path) -> None:
    main(["evaluate", "--runs", f"'{runs[0]}' '{runs[1]}'"])
    folder = ensemble_folder(runs)
    again = shutil.copytree(folder, folder.with_name("ensemble-2-9"))
    found, _ = find_runs([folder, again])
    groups, left_out = groups_of(found)
    assert [len(arm.runs) for group in groups for arm in group.arms if " x2" in arm.name] == [1] * (
        len(groups[0].arms)
    )
    assert any("shares networks" in out.reason for out in left_out)
    shutil.rmtree(again)


def test_a_calibrated_test_of_other_weights_is_left_out(calibrated: Path, tmp_path: Path) -> None:
    """As after a run was resumed and its best checkpoint tested again."""
    run = shutil.copytree(calibrated, tmp_path / "run")
    tag = run / "test/best"
    test = TestRun.load(tag / "bins.npz")
    metrics = json.loads((tag / "metrics.json").read_text())
    changed = {"predictor": "another"}
    replace(test, meta={**test.meta, **changed}).save(tag / "bins.npz")
    (tag / "metrics.json").write_text(json.dumps(metrics | {"meta": metrics["meta"] | changed}))
    found, left_out = find_runs([run])
    assert [one.tag for one in found] == ["best"]
    assert {out.folder.name for out in left_out} == {"best+temperature", "best+vector"}
    with pytest.raises(RunFolderError, match="predictor"):
        compare(tag, run / "test/best+temperature", title="")


@pytest.mark.parametrize("command", [["calibrate", "--run"], ["thresholds"]])
def test_a_base_of_other_weights_is_tested_again(
    calibrated: Path, tmp_path: Path, command: list[str]
) -> None:
    run = shutil.copytree(calibrated, tmp_path / "run")
    best, last = (run / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    content = torch.load(last, weights_only=True)
    name = next(n for n in content["state_dict"] if n.endswith("weight"))
    content["state_dict"][name] *= 0.5
    torch.save(content, best)
    before = counted(run, "best").meta["predictor"]
    assert main([*command, str(run)]) == 0
    after = counted(run, "best").meta["predictor"]
    assert after != before
    if "calibrate" in command:
        assert counted(run, "best+temperature").meta["predictor"] == after


def test_a_test_leaves_the_module_as_it_was() -> None:
    trainer, callback = Trainer(logger=False, enable_checkpointing=False), PostHoc()
    module = SegmentationModule(torch.nn.Conv2d(1, 2, 1), CrossEntropyLoss())
    module.post_hoc.predictor, module.post_hoc.margins = "of another test", True
    callback.setup(trainer, module, "fit")
    assert module.post_hoc == PostHocState()
    module.post_hoc.predictor = "of this test"
    callback.teardown(trainer, module, "test")
    assert module.post_hoc == PostHocState()


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--run", "r", "--labels", "l"], "--labels"),
        (["--run", "r", "--groups", "3"], "--groups"),
        (["p", "--grid", "native"], "--grid"),
        (["p", "--method", "local_temperature"], "looks at the image"),
    ],
)
def test_options_of_the_other_kind_are_refused(
    args: list[str], named: str, refusal: Callable[..., str]
) -> None:
    assert named in refusal("calibrate", *args)


def test_uncertainty_is_that_before_calibration(
    runs: list[Path], tmp_path: Path, refusal: Callable[..., str]
) -> None:
    file = runs[1] / "calibrators/local_temperature.json"
    if not file.is_file():
        assert main(["calibrate", "--run", str(runs[1]), "--method", "local_temperature"]) == 0
    source = next((runs[1].parents[3] / "ACDC").rglob("*frame01.nii.gz"))
    args = ["--run", str(runs[1]), "--input", str(source), "--output", str(tmp_path)]
    error = refusal("predict", *args, "--calibrator", str(file), "--uncertainty")
    assert "UNCERTAINTY" in error


def test_the_value_of_a_setting_is_no_run_folder() -> None:
    args = ["--runs", "a b", "--results.show", "false", "--trainer.devices=2"]
    options, rest = parse(parser("evaluate", None), args)
    assert options.run is None
    assert options.runs == [Path("a"), Path("b")]
    assert rest == [("results.show", "false"), ("trainer.devices", "2")]
