import errno
import filecmp
import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from datamodules.phantom import CardiacPhantom, acdc, load_posterior, write_acdc_phantom

PATIENTS = {"train": 2, "val": 1, "test": 1}


def write(root, settings, **changes):
    options = {"patients": PATIENTS, "settings": settings, "seed": 3, "workers": 1}
    write_acdc_phantom(root, progress=False, **(options | changes))


@pytest.fixture(scope="module")
def root(coarse, tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom") / "acdc"
    write(root, coarse)
    return root


def files(root):
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def info(folder):
    return dict(line.split(": ") for line in (folder / "Info.cfg").read_text().splitlines())


def test_layout_is_that_of_acdc(root):
    expected = ["phantom.json", "split.json"]
    for number in range(1, 5):
        name = f"patient{number:03d}"
        folder = f"database/{'testing' if number > 3 else 'training'}/{name}"
        facts = info(root / folder)
        assert list(facts) == ["ED", "ES", "Group", "Height", "NbFrame", "Weight"]
        assert 1 <= int(facts["ED"]) < int(facts["ES"]) <= int(facts["NbFrame"])
        assert facts["Group"] in ("NOR", "MINF", "DCM", "HCM", "RV")
        assert 45 <= float(facts["Weight"]) <= 130
        expected.append(f"{folder}/Info.cfg")
        for key in ("ED", "ES"):
            stem = f"{name}_frame{int(facts[key]):02d}"
            expected += [f"{folder}/{stem}.nii.gz", f"{folder}/{stem}_gt.nii.gz"]
            expected.append(f"posterior/{name}/{stem}.npz")
    assert files(root) == sorted(expected)
    split = json.loads((root / "split.json").read_text())
    assert split == {
        "train": ["patient001", "patient002"],
        "val": ["patient003"],
        "test": ["patient004"],
    }
    card = json.loads((root / "phantom.json").read_text())
    assert (card["origin"], card["seed"], card["patients"]) == ("phantom", 3, PATIENTS)
    assert card["settings"]["sigma_mm"] == 0.8


def test_volumes_labels_and_posteriors_fit_together(root):
    for path in sorted(root.rglob("*_gt.nii.gz")):
        image, label = nib.load(str(path).replace("_gt", "")), nib.load(path)
        assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)
        assert image.shape == label.shape
        values = np.asanyarray(label.dataobj)
        assert set(np.unique(values)) == {0, 1, 2, 3}
        assert np.asanyarray(image.dataobj).min() >= 0
        name = path.name.replace("_gt.nii.gz", ".npz")
        probs = load_posterior(root / "posterior" / path.parent.name / name)
        assert probs.shape == (4, *label.shape)
        np.testing.assert_allclose(probs.sum(axis=0), 1, atol=1e-6)
        assert np.take_along_axis(probs, values[None].astype(int), 0).min() > 0
        right = (probs.argmax(axis=0) == values)[probs.max(axis=0) > 0.6]
        assert right.mean() > 0.98


def test_headers(root, coarse):
    """Origin 0, x and y reversed; some sforms have unit scales, no qform and no pixdim has."""
    faulty = set()
    for path in sorted(root.rglob("*.nii.gz")):
        header = nib.load(path).header
        zooms = np.array(header.get_zooms())
        assert coarse.pixel_mm[0] <= zooms[0] == zooms[1] <= coarse.pixel_mm[1]
        assert zooms[2] == 10
        true = np.diag([*(zooms * [-1, -1, 1]), 1])
        np.testing.assert_allclose(header.get_qform(), true, atol=1e-5)
        assert int(header["qform_code"]) == int(header["sform_code"]) == 1
        if np.allclose(header.get_sform(), np.diag([-1, -1, 1, 1])):
            faulty.add(path.parent.name)
        else:
            np.testing.assert_allclose(header.get_sform(), header.get_qform(), atol=1e-5)
    assert len(faulty) == 1  # 0.3 of four patients
    late = [p.parent.name for p in root.rglob("Info.cfg") if info(p.parent)["ED"] != "1"]
    assert len(late) == 1


def test_files_do_not_depend_on_the_workers(root, coarse, tmp_path):
    write(tmp_path / "two", coarse, workers=2)
    assert files(root) == files(tmp_path / "two")
    _, differ, odd = filecmp.cmpfiles(root, tmp_path / "two", files(root), shallow=False)
    assert (differ, odd) == ([], [])


def test_a_patient_does_not_depend_on_the_others(root, coarse, tmp_path):
    """And an empty folder that is there already is filled."""
    (tmp_path / "few").mkdir()
    write(tmp_path / "few", coarse, patients={"train": 1, "val": 1, "test": 1})
    many, few = (
        sorted((home / "posterior" / "patient001").iterdir()) for home in (root, tmp_path / "few")
    )
    for first, second in zip(many, few, strict=True):  # ED, ES
        np.testing.assert_array_equal(load_posterior(first), load_posterior(second))


def test_written_once(root, coarse, monkeypatch):
    monkeypatch.setattr(acdc, "make_patient", lambda *a, **k: pytest.fail("written again"))
    write(root, coarse)


def test_other_settings_are_refused(root, coarse):
    with pytest.raises(ValueError, match=r"other seed\. Delete it, or name another folder"):
        write(root, coarse, seed=4)
    with pytest.raises(ValueError, match="other field_of_view_mm, pixel_mm"):
        write(root, CardiacPhantom())


def test_another_folder_is_left_alone(coarse, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="Not a phantom, and not overwritten"):
        write(tmp_path, coarse)
    with pytest.raises(FileExistsError, match="Not a phantom"):
        write(tmp_path / "notes.txt", coarse)
    assert files(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
        (OSError(errno.ENOSPC, "No space left on device"), OSError, "No space left.*Free some"),
        (PermissionError(errno.EACCES, "Permission denied"), PermissionError, "cannot be written"),
    ],
)
def test_an_interrupted_write_leaves_nothing(coarse, tmp_path, monkeypatch, fault, kind, text):
    real, calls = acdc.save_posterior, []

    def breaks(path: Path, probs: np.ndarray) -> None:
        calls.append(path)
        if len(calls) > 1:
            raise fault
        real(path, probs)

    monkeypatch.setattr(acdc, "save_posterior", breaks)
    with pytest.raises(kind, match=text):
        write(tmp_path / "acdc", coarse)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_job_left_is_cleared(root, coarse):
    ages = {".acdc.partial-old": 7200, ".acdc.partial-new": 0, ".b.partial-old": 7200}
    for name, age in ages.items():
        left = root.with_name(name)
        (left / "database").mkdir(parents=True)
        begun = left.stat().st_mtime - age
        os.utime(left, (begun, begun))
    write(root, coarse)
    names = {path.name for path in root.parent.iterdir()}
    assert names == {"acdc", ".acdc.partial-new", ".b.partial-old"}


def test_a_file_in_the_way_of_the_folder(coarse, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written"):
        write(tmp_path / "file" / "acdc", coarse)


def test_arguments_are_checked(coarse, tmp_path):
    with pytest.raises(ValueError, match="must name train, val, test"):
        write(tmp_path / "a", coarse, patients={"train": 3})
    with pytest.raises(ValueError, match=r"patients\['val'\] must be an integer >= 1, got 0"):
        write(tmp_path / "a", coarse, patients={"train": 3, "val": 0, "test": 1})
    with pytest.raises(ValueError, match="seed must be >= 0, got -1"):
        write(tmp_path / "a", coarse, seed=-1)
    with pytest.raises(ValueError, match="workers must be >= 1 or None, got 0"):
        write(tmp_path / "a", coarse, workers=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"basal_pi": 1.5}, r"basal_pi must be in \[0, 1\], got 1.5"),
        ({"sigma_mm": 0.0}, "sigma_mm must be > 0, got 0.0"),
        ({"bias_mm": 0.9}, "bias_mm is a part of sigma_mm=0.8, got bias_mm=0.9"),
        ({"noise": (0.3, 0.1)}, "noise must be"),
        ({"slice_distances_mm": ()}, "slice_distances_mm must be positive"),
        ({"shift_mm": -1.0}, "shift_mm must be >= 0, got -1.0"),
        ({"pixel_mm": (0.0, 1.0)}, "pixel_mm and fine_slices_mm must be > 0"),
    ],
)
def test_settings_are_checked(setting, text):
    with pytest.raises(ValueError, match=text):
        CardiacPhantom(**setting)
