"""Every phantom: its files, and when they are written."""

import dataclasses
import errno
import filecmp
import json
import os

import nibabel as nib
import numpy as np
import pytest

from datamodules.phantom import PhantomSettings, load_posterior, write_phantom, writer
from tests.datamodules.phantom.conftest import PATIENTS, PHANTOMS, SETTINGS, files, write
from tests.faults import phantom_cases


def load(path):
    return np.asanyarray(nib.load(path).dataobj)


def test_volumes_labels_and_posteriors_fit_together(phantom, roots):
    """Also in files whose axes are turned: the posterior is turned with them."""
    classes = {"acdc": [0, 1, 2, 3], "brats": [0, 1, 2, 4], "flare": list(range(14))}
    root, values = roots[phantom.dataset], classes[phantom.dataset]
    seen = set()
    for case in phantom_cases(root).values():
        images, label = [nib.load(path) for path in case.images], nib.load(case.label)
        assert label.get_data_dtype() == np.uint8
        assert {image.get_data_dtype() for image in images} == {np.dtype(np.int16)}
        assert {image.shape for image in images} == {label.shape}
        for image in images:
            np.testing.assert_array_equal(image.affine, label.affine)
            assert load(image.get_filename()).std() > 0
        stored = load(case.label)
        seen |= set(np.unique(stored).tolist())
        drawn = np.searchsorted(values, stored)
        probs = load_posterior(case.posterior)
        assert probs.shape == (len(values), *label.shape)
        np.testing.assert_allclose(probs.sum(axis=0), 1, atol=1e-6)
        assert np.take_along_axis(probs, drawn[None], 0).min() > 0
        assert (probs.argmax(axis=0) == drawn)[probs.max(axis=0) > 0.6].mean() > 0.98
    assert seen == set(values)


def test_the_folder_is_marked_as_a_phantom(phantom, roots):
    root = roots[phantom.dataset]
    card = json.loads((root / "phantom.json").read_text())
    assert (card["origin"], card["dataset"], card["seed"]) == ("phantom", phantom.dataset, 3)
    assert card["note"].endswith(f"They are not {phantom.title}.")
    assert (card["patients"], card["version"]) == (PATIENTS, phantom.version)
    assert card["settings"]["release"] in phantom.releases
    assert set(card["settings"]["quirks"]) == set(phantom.quirks)
    split = json.loads((root / "split.json").read_text())
    names = [name for part in ("train", "val", "test") for name in split[part]]
    assert {part: len(found) for part, found in split.items()} == PATIENTS
    assert sorted(path.name for path in (root / "posterior").iterdir()) == sorted(names)


def test_files_do_not_depend_on_the_workers(phantom, roots, tmp_path):
    root = roots[phantom.dataset]
    write_phantom(
        phantom, tmp_path / "two", patients=PATIENTS, settings=SETTINGS[phantom.dataset], seed=3,
        workers=2, progress=False,
    )  # fmt: skip
    assert files(root) == files(tmp_path / "two")
    _, differ, odd = filecmp.cmpfiles(root, tmp_path / "two", files(root), shallow=False)
    assert (differ, odd) == ([], [])


def test_a_patient_depends_on_the_seed_and_not_on_the_others(phantom, roots, tmp_path):
    """And an empty folder that is there already is filled."""
    root, few = roots[phantom.dataset], tmp_path / "few"
    few.mkdir()
    write(few, phantom.dataset, patients={"train": 1, "val": 1, "test": 1})
    other = write(tmp_path / "other", phantom.dataset, seed=4)
    first = sorted((root / "posterior").iterdir())[0].name
    cases = [
        [case for case in phantom_cases(home).values() if case.posterior.parent.name == first]
        for home in (root, few, other)
    ]
    for many, same, changed in zip(*cases, strict=False):
        np.testing.assert_array_equal(load(many.images[0]), load(same.images[0]))
        now, then = load(many.images[0]), load(changed.images[0])
        assert now.shape != then.shape or (now != then).any()


def test_the_image_shows_the_mean_shape_and_nothing_of_the_annotator(phantom):
    """Another annotator, the same scan."""
    settings = phantom.settled(SETTINGS[phantom.dataset])
    other = dataclasses.replace(settings, sigma_scale=2.0, bias_share=0.9)
    patient = writer.Patient(3, name="x")
    for first, second in zip(
        *(phantom.draw(patient, s, 0)[0] for s in (settings, other)), strict=True
    ):
        for a, b in zip(first.images.values(), second.images.values(), strict=True):
            np.testing.assert_array_equal(a, b)
        assert first.annotation.layers[0].sigma_mm * 2 == second.annotation.layers[0].sigma_mm


def test_a_default_case_is_small(phantom, tmp_path):
    """About 1.1 MB a patient on disk."""
    patient = writer.Patient(1, name="x")
    scans, _ = phantom.draw(patient, phantom.settled(PhantomSettings()), 0)
    for scan in scans:
        scan.write(tmp_path, patient.name, np.random.default_rng(0))
    assert sum((tmp_path / name).stat().st_size for name in files(tmp_path)) < 1.6e6


# When it is written ---------------------------------------------------------------------------


def test_written_once(roots, monkeypatch):
    monkeypatch.setattr(writer, "_write_patient", lambda *a: pytest.fail("written again"))
    write(roots["acdc"], "acdc")


def test_other_settings_are_refused(roots):
    with pytest.raises(ValueError, match=r"other seed\. Delete it, or name another folder"):
        write(roots["acdc"], "acdc", seed=4)
    with pytest.raises(ValueError, match="other coarsen"):
        write(roots["acdc"], "acdc", settings=dataclasses.replace(SETTINGS["acdc"], coarsen=3))


@pytest.mark.parametrize("change", [{"version": 1}, {"version": 1, "settings": {"voxel_mm": 2}}])
def test_a_phantom_of_an_earlier_version_is_replaced(tmp_path, capsys, change):
    options = {"patients": {"train": 1, "val": 1, "test": 1}}
    root = write(tmp_path / "brats", "brats", **options)
    now, card = files(root), json.loads((root / "phantom.json").read_text())
    (root / "phantom.json").write_text(json.dumps(card | change))
    (root / "left.nii.gz").touch()
    with pytest.raises(ValueError, match="other version, seed"):
        write(root, "brats", seed=4, **options)
    write(root, "brats", **options)
    assert files(root) == now
    assert [path.name for path in tmp_path.iterdir()] == ["brats"]
    assert "earlier version, and is replaced" in " ".join(capsys.readouterr().err.split())


def test_a_phantom_of_a_later_version_is_refused(roots, tmp_path):
    root = tmp_path / "acdc"
    root.mkdir()
    card = json.loads((roots["acdc"] / "phantom.json").read_text())
    (root / "phantom.json").write_text(json.dumps(card | {"version": 99}))
    with pytest.raises(ValueError, match="other version"):
        write(root, "acdc")


def test_another_folder_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for root in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(FileExistsError, match="Not a phantom, and not overwritten"):
            write(root, "acdc")
    assert files(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
        (OSError(errno.ENOSPC, "No space left on device"), OSError, "No space left.*Free some"),
        (PermissionError(errno.EACCES, "Permission denied"), PermissionError, "cannot be written"),
    ],
)
def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch, fault, kind, text):
    real, calls = writer.save_posterior, []

    def breaks(path, probs):
        calls.append(path)
        if len(calls) > 1:
            raise fault
        real(path, probs)

    monkeypatch.setattr(writer, "save_posterior", breaks)
    with pytest.raises(kind, match=text):
        write(tmp_path / "acdc", "acdc")
    assert list(tmp_path.iterdir()) == []


def test_files_of_a_killed_job_are_cleared(tmp_path):
    ages = {".acdc.partial-old": 7200, ".acdc.partial-new": 0, ".b.partial-old": 7200}
    for name, age in ages.items():
        left = tmp_path / name
        (left / "database").mkdir(parents=True)
        begun = left.stat().st_mtime - age
        os.utime(left, (begun, begun))
    write(tmp_path / "acdc", "acdc", patients={"train": 1, "val": 1, "test": 1})
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"acdc", ".acdc.partial-new", ".b.partial-old"}


def test_a_file_in_the_way_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written"):
        write(tmp_path / "file" / "acdc", "acdc")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"patients": {"train": 3}}, "must name train, val, test"),
        (
            {"patients": {"train": 3, "val": 0, "test": 1}},
            r"patients\['val'\] must be an integer >= 1, got 0",
        ),
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"settings": PhantomSettings(release="2017x")}, "release must be one of 2021, .*'2017x'"),
        ({"settings": PhantomSettings(quirks={"late ED": 1})}, "quirks must be of .*'late ED'"),
    ],
)
def test_arguments_are_checked(arguments, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        write(tmp_path / "a", "brats", **arguments)
    with pytest.raises(ValueError, match="workers must be >= 1 or None, got 0"):
        write_phantom(PHANTOMS["brats"], tmp_path / "a", workers=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"coarsen": 0.0}, "coarsen must be > 0, got 0.0"),
        ({"sigma_scale": -1.0}, "sigma_scale must be > 0, got -1.0"),
        ({"noise_scale": -1.0}, "noise_scale must be >= 0, got -1.0"),
        ({"bias_share": 1.5}, r"bias_share must be in \[0, 1\], got 1.5"),
        ({"quirks": {"plain": 2.0}}, r"plain must be in \[0, 1\], got 2.0"),
    ],
)
def test_settings_are_checked(setting, text):
    with pytest.raises(ValueError, match=text):
        PhantomSettings(**setting)
