"""Predictions of other programs: cross-fitted, applied and averaged, in the form of nnU-Net v2."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, ornt_transform

from mbls.cli import main
from mbls.evaluation import TestRun
from mbls.posthoc import Calibrator, Regions
from mbls.predictions import open_predictions

TEMPERATURE = 2.0
SHAPE = (16, 15, 12)
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])
CLASSES = {"labels": {"background": 0, "left": 1, "right": 2}, "file_ending": ".nii.gz"}
REGIONS = {
    "labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2],
    "file_ending": ".nii.gz",
}  # fmt: skip


def nifti(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, AFFINE), path)


def write_case(root: Path, labels: Path, case: str, seed: int, *, regions: bool = False) -> None:
    """Write probabilities that are too sharp by a temperature, and a label that is drawn."""
    draw = torch.Generator().manual_seed(seed)
    if regions:
        whole = 2 * torch.randn(SHAPE, generator=draw, dtype=torch.float64)
        inside = torch.rand(SHAPE, generator=draw, dtype=torch.float64) < whole.sigmoid()
        most = torch.rand(SHAPE, generator=draw, dtype=torch.float64) < 0.9
        label = inside.long() + (inside & most).long()
        core = (whole.sigmoid() * 0.9).logit()
        probs = torch.stack([whole, core]).mul(TEMPERATURE).sigmoid()
    else:
        logits = 2 * torch.randn(3, *SHAPE, generator=draw, dtype=torch.float64)
        truth = logits.softmax(dim=0)
        steps = torch.rand(SHAPE, generator=draw, dtype=torch.float64)
        label = (truth.cumsum(dim=0) < steps).sum(dim=0).clamp_max(2)
        probs = (logits * TEMPERATURE).softmax(dim=0)
    root.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        root / f"{case}.npz", probabilities=probs.float().numpy().transpose(0, 3, 2, 1)
    )
    inside = (probs > 0.5).long()
    segmented = torch.where(inside[1] > 0, 2, inside[0]) if regions else probs.argmax(dim=0)
    nifti(root / f"{case}.nii.gz", segmented.numpy().astype(np.uint8))
    nifti(labels / f"{case}.nii.gz", label.numpy().astype(np.uint8))


def trained(folder: Path, *, regions: bool = False) -> tuple[Path, Path]:
    """Return a results folder of nnU-Net v2 with two folds of three cases, and the labels."""
    root, labels = folder / "Dataset001_Tiny" / "trainer", folder / "labelsTr"
    for number in range(6):
        place = root / f"fold_{number % 2}" / "validation"
        write_case(place, labels, f"case_{number:03d}", number, regions=regions)
    (root / "dataset.json").write_text(json.dumps(REGIONS if regions else CLASSES))
    return root, labels


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The predictions, and the folder of their calibration."""
    folder = tmp_path_factory.mktemp("nnunet")
    root, labels = trained(folder)
    args = ["--labels", str(labels), "--output", str(folder / "out"), "--name", "nnunet"]
    assert main(["calibrate", str(root), *args, "--method", "temperature,isotonic"]) == 0
    return root, folder / "out"


def test_a_known_temperature_is_found_and_removed(calibrated: tuple[Path, Path]) -> None:
    _, output = calibrated
    found = Calibrator.load(output / "calibrators/temperature.json")
    error = found.card.report["temperature_se"]
    assert abs(found.temperature - TEMPERATURE) < max(4 * error, 0.05)
    assert len(found.card.cases) == 6
    before, after = (
        TestRun.load(output / "test" / tag / "bins.npz") for tag in ("best", "best+temperature")
    )
    values = [run.summary()["sound"]["all"]["pooled"]["ece"] for run in (before, after)]
    assert values[0]["value"] > 0.1
    assert values[1]["value"] < 2 * values[1]["floor"] + 0.01
    assert after.meta["groups"] == 2
    assert after.meta["changed_voxels"] == [0] * 6
    differences = json.loads((output / "test/best+isotonic/calibration.json").read_text())
    ece = differences["differences"][0]
    assert ece["after"] < ece["before"]
    assert ece["interval"][1] < 0


def test_a_report_shows_each_calibration(calibrated: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "report"
    assert main(["report", str(calibrated[1]), "--output", str(output), "--no-pictures"]) == 0
    table = (output / "table.md").read_text()
    assert all(name in table for name in ("nnunet+ts", "nnunet+isotonic"))


def test_applied_predictions_keep_their_format(
    calibrated: tuple[Path, Path], tmp_path: Path
) -> None:
    root, output = calibrated
    file = output / "calibrators/temperature.json"
    assert main(["apply", str(file), str(root), str(tmp_path / "new")]) == 0
    source = open_predictions(root, labels=root.parents[1] / "labelsTr")
    written = open_predictions(tmp_path / "new", labels=root.parents[1] / "labelsTr")
    assert (written.format, written.axes, written.folds) == ("nnunet", "czyx", source.folds)
    calibrator = Calibrator.load(file)
    for case in source.cases:
        expected = calibrator.apply(source.read(case).log_probs(), dim=0).exp()
        torch.testing.assert_close(written.read(case).probs, expected)
        fold = f"fold_{int(case[-1]) % 2}/validation/{case}.nii.gz"
        image = nib.load(tmp_path / "new" / fold)
        np.testing.assert_array_equal(image.affine, AFFINE)
        np.testing.assert_array_equal(np.asarray(image.dataobj), expected.argmax(dim=0).numpy())


def test_regions_are_calibrated_each_on_its_own(tmp_path: Path) -> None:
    root, labels = trained(tmp_path, regions=True)
    args = ["--labels", str(labels), "--output", str(tmp_path / "out"), "--groups", "3"]
    assert main(["calibrate", str(root), *args]) == 0
    found = Calibrator.load(tmp_path / "out/calibrators/temperature.json")
    assert isinstance(found, Regions)
    assert found.calibrators[0].temperature == pytest.approx(TEMPERATURE, abs=0.1)
    for region in ("whole", "core"):
        rows = json.loads(
            (tmp_path / "out" / region / "test/best+temperature/calibration.json").read_text()
        )
        assert rows["differences"][0]["after"] < rows["differences"][0]["before"]
    assert (
        main(
            [
                "apply",
                str(tmp_path / "out/calibrators/temperature.json"),
                str(root),
                str(tmp_path / "new"),
            ]
        )
        == 0
    )
    image = nib.load(tmp_path / "new/fold_0/validation/case_000.nii.gz")
    assert set(np.unique(np.asarray(image.dataobj))) == {0, 1, 2}


def test_folders_are_averaged(tmp_path: Path) -> None:
    labels, folders = tmp_path / "labels", [tmp_path / "one", tmp_path / "two"]
    for number, folder in enumerate(folders):
        for case in range(3):
            write_case(folder, labels, f"c{case}", 10 * number + case)
        (folder / "dataset.json").write_text(json.dumps(CLASSES))
    (folders[1] / "c2.npz").unlink()
    args = ["--output", str(tmp_path / "mean")]
    assert main(["ensemble", *map(str, folders), *args]) == 0
    sources = [open_predictions(f, labels=labels) for f in (*folders, tmp_path / "mean")]
    assert sources[2].cases == ("c0", "c1")
    for case in sources[2].cases:
        one, two, mean = (source.read(case).probs.double() for source in sources)
        torch.testing.assert_close(mean, (one + two) / 2, rtol=0, atol=1e-7)
        found = nib.load(
            tmp_path / f"mean/uncertainty/{case}_mutual_information.nii.gz"
        ).get_fdata()
        entropy = [-(p * p.clamp_min(1e-300).log()).sum(dim=0) for p in (mean, one, two)]
        expected = entropy[0] - (entropy[1] + entropy[2]) / 2
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    with (tmp_path / "mean/uncertainty.csv").open() as table:
        assert [row["case"] for row in csv.DictReader(table)] == ["c0", "c1"]


@pytest.mark.usefixtures("few_draws")
def test_all_options_reach_the_audit_of_the_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Axes that shapes leave open, names, values, the format; and notes of the members."""
    monkeypatch.chdir(tmp_path)
    shape, values = (8, 7, 8), np.array([0, 3, 5], np.uint8)
    for seed, folder in enumerate(("one", "two")):
        logits = np.random.default_rng(seed).normal(size=(3, *shape))
        probs = (np.exp(logits) / np.exp(logits).sum(0)).astype(np.float16)
        nifti(Path("labels/a.nii.gz"), values[probs.argmax(0)])
        Path(folder).mkdir()
        np.savez(f"{folder}/a.npz", probs.transpose(0, 3, 2, 1))
    args = ["ensemble", "one", "two", "--labels", "labels", "--output", "mean"]
    args += ["--axes", "czyx", "--class-names", "a,b,c", "--label-values", "0,3,5"]
    assert main([*args, "--format", "npz", "--name", "both"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("1 of 1 maps are float16") == 2
    assert "one: " in shown
    assert "voxels of 1 cases renormalized" in shown
    tested = TestRun.load(Path("runs/audit/both/test/best/bins.npz"))
    assert tested.meta["class_names"] == ["a", "b", "c"]
    command = json.loads(Path("runs/audit/both/run.json").read_text())["command"]
    assert command.startswith("mbls ensemble one two")


@pytest.mark.usefixtures("few_draws")
def test_a_mean_of_regions_is_audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The maps of the uncertainty, which have an axis of the regions too, are no predictions."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    nifti(Path("labels/a.nii.gz"), rng.integers(0, 3, SHAPE).astype(np.uint8))
    for folder in ("one", "two"):
        nifti(Path(folder, "a_prob.nii.gz"), rng.random((*SHAPE, 2)).astype(np.float32))
    args = ["ensemble", "one", "two", "--labels", "labels", "--output", "mean"]
    assert main([*args, "--regions", "whole=1,2 core=2"]) == 0
    assert Path("runs/audit/mean/core/test/best/metrics.json").is_file()
    assert open_predictions(Path("mean"), labeled=False, regions="w=1 c=2").cases == ("a",)


@pytest.mark.usefixtures("few_draws")
def test_what_the_audit_refuses_stops_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Callable[..., str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, folder in enumerate(("one", "two")):
        write_case(Path(folder), Path("labels"), "a", seed)
    args = ["ensemble", "one", "two", "--labels", "labels", "--output", "mean"]
    assert "--name must have" in refusal(*args, "--name", "a,b")
    nifti(Path("labels/a.nii.gz"), np.full(SHAPE, 7, np.uint8))
    assert "values 7, which are of no channel" in refusal(*args)
    assert not Path("mean/a.npz").exists()


def test_folders_on_different_grids_are_not_averaged(
    tmp_path: Path, refusal: Callable[..., str]
) -> None:
    for number, folder in enumerate(("one", "two")):
        write_case(tmp_path / folder, tmp_path / "labels", "a", number)
    place = tmp_path / "two/a.nii.gz"
    label = np.asarray(nib.load(place).dataobj)
    args = ["ensemble", str(tmp_path / "one"), str(tmp_path / "two"), "--output"]
    for distance in (1.0, 0.01):
        affine = AFFINE.copy()
        affine[1, 3] += distance
        nib.save(nib.Nifti1Image(label, affine), place)
        if distance > 0.05:
            error = refusal(*args, str(tmp_path / "mean"))
            assert "two/a.nii.gz is not on that of" in error
            assert "1 mm apart" in error
            assert not (tmp_path / "mean").exists()
    assert main([*args, str(tmp_path / "mean")]) == 0
    np.savez(tmp_path / "two/a.npz", np.full((3, 11, *SHAPE[1::-1]), 1 / 3, np.float32))
    nifti(place, label[..., 1:])
    assert "the shapes are (16, 15, 11) and (16, 15, 12)" in refusal(*args, str(tmp_path / "x"))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR"])
def test_arrays_that_nnunet_turned_are_turned_back(tmp_path: Path, codes: str) -> None:
    """Its reader NibabelIOWithReorient, named in plans.json, writes npz along R, A and S."""
    root, labels = tmp_path / "results", tmp_path / "labels"
    write_case(root, labels, "a", 0)
    truth = open_predictions(root, labels=labels).read("a")
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    for path in (root / "a.nii.gz", labels / "a.nii.gz"):
        image = nib.load(path).as_reoriented(turn)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine), path)
    (root / "dataset.json").write_text(json.dumps(CLASSES))
    (root / "plans.json").write_text(json.dumps({"image_reader_writer": "NibabelIOWithReorient"}))
    source = open_predictions(root, labels=labels)
    found = source.read("a")
    for mine, theirs in ((found.probs, truth.probs), (found.label[None], truth.label[None])):
        back = nib.orientations.apply_orientation(
            mine.movedim(0, -1).numpy(), ornt_transform(axcodes2ornt(codes), axcodes2ornt("RAS"))
        )
        np.testing.assert_array_equal(back, theirs.movedim(0, -1).numpy())
    source.write(tmp_path / "new", "a", found.probs)
    arrays = [np.load(folder / "a.npz")["probabilities"] for folder in (root, tmp_path / "new")]
    np.testing.assert_array_equal(*arrays)


def test_maps_of_the_uncertainty_are_no_cases(tmp_path: Path) -> None:
    """As `mbls predict` writes them next to label maps and probabilities."""
    for folder in ("one", "two"):
        nifti(tmp_path / folder / "a.nii.gz", np.zeros(SHAPE, np.uint8))
        nifti(tmp_path / folder / "a_entropy.nii.gz", np.zeros(SHAPE, np.float32))
        probs = np.full((*SHAPE, 2), 0.5, np.float32)
        nifti(tmp_path / folder / "a_prob.nii.gz", probs)
    folders = [str(tmp_path / folder) for folder in ("one", "two")]
    assert main(["ensemble", *folders, "--output", str(tmp_path / "mean")]) == 0
    assert open_predictions(tmp_path / "mean", labeled=False).cases == ("a",)


def test_a_calibrator_of_other_classes_is_refused(
    calibrated: tuple[Path, Path], tmp_path: Path, refusal: Callable[..., str]
) -> None:
    file = str(calibrated[1] / "calibrators/temperature.json")
    root, new = tmp_path / "root", str(tmp_path / "new")
    write_case(root, tmp_path / "labels", "a", 7)
    swapped = {"labels": {"background": 0, "right": 1, "left": 2}}
    (root / "dataset.json").write_text(json.dumps(swapped))
    error = refusal("apply", file, str(root), new)
    assert "3 classes (background, left, right)" in error
    assert "3 classes (background, right, left)" in error
    assert 'CLASS_NAMES="background,left,right"' in error
    assert "background, up, down" in refusal(
        "apply", file, str(root), new, "--class-names", "background,up,down"
    )
    regions = {"labels": {"background": 0, "left": [1, 2], "right": [2], "all": [1, 2, 3]}}
    (root / "dataset.json").write_text(json.dumps(regions | {"regions_class_order": [1, 2, 3]}))
    error = refusal("apply", file, str(root), new)
    assert "3 regions (left, right, all): fit one to these regions" in error
    assert not Path(new).exists()
    for names in ([], ["--class-names", "Background,Left,Right"]):  # unknown, and the same
        (root / "dataset.json").unlink(missing_ok=True)
        assert main(["apply", file, str(root), f"{new}{len(names)}", *names]) == 0


def test_no_file_is_replaced(
    calibrated: tuple[Path, Path], tmp_path: Path, refusal: Callable[..., str]
) -> None:
    """Neither the labels, nor the predictions of a member, nor the files of somebody else."""
    file, labels = str(calibrated[1] / "calibrators/temperature.json"), tmp_path / "labels"
    for number, folder in enumerate(("one", "two")):
        write_case(tmp_path / folder, labels, "a", number)
    foreign = tmp_path / "foreign/notes.txt"
    foreign.parent.mkdir()
    foreign.write_text("mine")
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    given = ["--labels", str(labels)]
    for output in (labels, tmp_path, tmp_path / "one"):
        assert "Choose a folder apart" in refusal("apply", file, one, str(output), *given)
    assert "foreign exists and is not empty" in refusal("apply", file, one, str(foreign.parent))
    for output in (labels, tmp_path / "two", tmp_path / "two/mean"):
        error = refusal("ensemble", one, two, *given, "--output", str(output))
        assert "Choose a folder apart" in error
    assert "Remove it" in refusal("ensemble", one, two, "--output", str(foreign.parent))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_what_does_not_fit_is_refused(
    calibrated: tuple[Path, Path], tmp_path: Path, refusal: Callable[..., str]
) -> None:
    root, output = calibrated
    file = str(output / "calibrators/temperature.json")
    other, labels = tmp_path / "other", tmp_path / "labels"
    other.mkdir()
    np.savez(other / "a.npz", np.full((4, *SHAPE[::-1]), 0.25, np.float32))
    nifti(other / "a.nii.gz", np.zeros(SHAPE, np.uint8))
    nifti(labels / "a.nii.gz", np.zeros(SHAPE, np.uint8))
    assert "3 classes" in refusal("apply", file, str(other), str(tmp_path / "x"))
    assert "'temperatur'" in refusal("calibrate", str(root), "--method", "temperatur")
    assert "RUN" in refusal("calibrate", "--method", "temperature")
    assert "two or more" in refusal("ensemble", str(root), "--output", str(tmp_path / "y"))
    assert "same classes" in refusal(
        "ensemble", str(root), str(other), "--output", str(tmp_path / "y")
    )
    (other / "a.nii.gz").unlink()
    assert "no geometry" in refusal("apply", file, str(other), str(tmp_path / "x"))
