"""``mbls check-data`` and ``mbls data`` on a fake download."""

import io
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from datamodules.case import Case, Problem
from datamodules.reading.checks import RawCase
from datamodules.reading.examination import case_facts
from mbls.cli import main
from mbls.commands.check_data import problem_table


def args(root: Path, tmp_path: Path) -> list[str]:
    cache = str(tmp_path / "cache")
    return ["--dataset", "acdc", "--data-root", str(root), "--data.init_args.cache_dir", cache]


def test_a_sound_download_has_no_problems(
    acdc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "made" / "sheet.png"
    assert main(["check-data", *args(acdc, tmp_path), "--sheet", str(sheet)]) == 0
    assert "No problems" in capsys.readouterr().out
    width, height = Image.open(sheet).size
    assert width > 1000
    assert height > 400


def test_the_summary_describes_the_cases(
    acdc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    path = acdc / "training/patient003/patient003_frame01_gt.nii.gz"
    label = nib.load(path)
    data = np.asarray(label.dataobj).astype(np.float64)
    data[data == 3] = 2
    volume = np.count_nonzero(data == 2) * 1.5 * 1.5 * 10 / 1000
    nib.save(nib.Nifti1Image(data + 2e-5, label.affine), path)
    assert main(["check-data", *args(acdc, tmp_path), "--pictures", "0"]) == 0
    shown = capsys.readouterr().out
    rows = {}
    for line in shown.splitlines():
        cells = [cell.strip() for cell in line.strip("│ ").split("│")]
        rows[cells[0]] = cells[1:]
    assert rows["voxels, axis 1"][:3] == ["20", "20", "20"]
    assert rows["voxel size, axis 3 (mm)"][:3] == ["10", "10", "10"]
    assert rows["axes"][3] == "LPS in 20"
    assert rows["left ventricle (ml)"][3] == "absent in 1"
    assert float(rows["myocardium (ml)"][2]) == pytest.approx(volume, rel=1e-3)
    assert "2e-05 off integers: rounded" in " ".join(shown.split())
    assert "Contact sheet" not in shown


def test_cases_without_a_structure_are_counted(
    acdc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    for path in acdc.glob("*/*/*_gt.nii.gz"):
        label = nib.load(path)
        data = np.asarray(label.dataobj).copy()
        spoiled = data == 3 if path.parts[-3] == "testing" else path.parts[-2] == "patient003"
        data[spoiled] = 0
        nib.save(nib.Nifti1Image(data, label.affine), path)
    assert main(["check-data", *args(acdc, tmp_path), "--pictures", "0"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    empty = "patient003_frame01, patient003_frame09"
    assert f"2 of 20 cases have no voxel of any structure: {empty}. They" in shown
    assert "left ventricle is absent from all 4 cases of test: it has no Dice in test" in shown
    assert "of train" not in shown
    assert "No problems" in shown


def test_a_dataset_has_one_name(
    acdc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """That of its YAML file, as runs have it."""
    own = tmp_path / "heart.yaml"
    own.write_text("data: {class_path: datamodules.ACDCDataModule, init_args: {root: null}}")
    given = [*args(acdc, tmp_path)[2:], "--dataset", str(own), "--pictures", "0"]
    assert main(["check-data", *given]) == 0
    shown = capsys.readouterr().out
    assert "heart: 20 cases" in shown


def test_a_patch_that_does_not_fit_the_slices_is_named(
    acdc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sizes are those of the cache's grid: slices of 20 x 24 pixels of 1.5 mm become 15 x 18."""
    patch = ["--data.init_args.sampling.patch_size", "[16, 16]"]
    patch += ["--data.init_args.preprocessing.spacing", "[2.0, 2.0]"]
    assert main(["check-data", *args(acdc, tmp_path), "--pictures", "0", *patch]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    printed = "patch_size [16, 16] is larger than the slices of 20 of 20 cases on axis 1 (15 to 15"
    assert printed in shown
    assert "cases on axis 2" not in shown


def test_a_picture_is_the_slice_with_most_foreground() -> None:
    image = np.zeros((1, 8, 10, 5), np.float32)
    image[0, :, :, 3] = np.arange(80).reshape(8, 10)
    label = np.zeros((8, 10, 5), np.uint8)
    label[2:5, 3, 1] = 1
    label[1:3, 4:9, 3] = 2
    label[0, 0, 4] = 255
    affine = np.diag([1.5, 1.5, 4.0, 1.0])  # RAS: both axes are mirrored
    raw = RawCase(image, label, None, affine, affine)
    facts = case_facts(Case("a", "a", ()), raw, prepared=(8, 10, 5), num_classes=3, pictured=True)
    assert facts.picture is not None
    np.testing.assert_array_equal(facts.picture.label, label[::-1, ::-1, 3])
    assert facts.picture.image.shape == (1, 8, 10)
    assert facts.codes == "RAS"
    assert facts.volumes == pytest.approx([386 * 0.009, 3 * 0.009, 10 * 0.009])
    assert facts.ignored == 1 / 400


def test_all_problems_are_in_one_table(
    acdc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    (acdc / "training/patient001/Info.cfg").unlink()
    broken = acdc / "training/patient002/patient002_frame01.nii.gz"
    broken.write_bytes(broken.read_bytes()[:100])
    assert main(["check-data", *args(acdc, tmp_path), "--pictures", "0"]) == 1
    shown = capsys.readouterr().out
    assert "2 problems" in shown
    assert " patient001/Info.cfg" in shown
    assert "patient002_frame01.nii.gz" in shown
    assert shown.count(str(acdc / "training")) == 1, "once, as the folder of all"


def test_problems_alike_share_a_row() -> None:
    root = Path("/data")
    many = [
        Problem(
            f"c{n}", f"/data/c{n}_gt.nii.gz", "labels must be whole", f"{n} that are not", "Fix."
        )
        for n in range(9)
    ]
    other = Problem("x", "/else/x.nii", "the file must exist", "[none]", "Restore it.")

    def shown(**settings: bool) -> str:
        console = Console(width=80, record=True, file=io.StringIO())
        console.print(problem_table([*many, other], root, **settings))
        return console.export_text()

    text = shown()
    assert text.startswith("10 problems in 2 rows, in /data")
    assert all(f"c{n}_gt.nii.gz" in text for n in range(3))
    assert "c3_gt.nii.gz" not in text
    assert "and 6 more files" in text
    assert "found, in the first, 0 that are not" in text
    assert "found [none]" in text
    assert text.count("Fix.") == 1
    assert max(map(len, text.splitlines())) <= 80
    every = shown(grouped=False)
    assert all(f"c{n}_gt.nii.gz" in every for n in range(9))
    assert every.count("Fix.") == 9


def test_preparing_a_broken_download_stops_with_its_problems(
    acdc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (acdc / "training/patient001/Info.cfg").unlink()
    assert main(["data", *args(acdc, tmp_path)]) == 1
    shown = capsys.readouterr().err
    assert "patient001" in shown
    assert "Traceback" not in shown


def test_preparing_fills_the_cache_once(acdc: Path, tmp_path: Path) -> None:
    assert main(["data", *args(acdc, tmp_path)]) == 0
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("image.npy")}
    assert stamps
    assert main(["data", *args(acdc, tmp_path)]) == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("image.npy")} == stamps
