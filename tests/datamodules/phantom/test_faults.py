import gzip
import json
import shutil
import struct
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from datamodules.phantom import (
    load_posterior,
    write_acdc_phantom,
    write_brats_phantom,
    write_flare_phantom,
)
from datamodules.reading.nifti import NiftiError, find_nifti, read_volume
from tests.faults import FAULTS, inject, phantom_cases

ONE = {"train": 1, "val": 1, "test": 1}
UNREADABLE = (  # at the image, or else at the label
    "zero-spacing",
    "nan-spacing",
    "two-sizes",
    "promises-more",
    "truncated",
    "truncated-label",
    "empty-file",
    "web-page",
    "four-dimensions",
)


@pytest.fixture(scope="module")
def phantoms(coarse, coarse_brain, coarse_abdomen, tmp_path_factory):
    home = tmp_path_factory.mktemp("phantoms")
    options = {"patients": ONE, "seed": 3, "workers": 1, "progress": False}
    write_acdc_phantom(home / "acdc", settings=coarse, **options)
    write_brats_phantom(home / "brats", settings=coarse_brain, **options)
    write_flare_phantom(home / "flare", settings=coarse_abdomen, **options)
    return home


def with_fault(name, dataset, phantoms, tmp_path):
    """A copy of the dataset's phantom, its first case before and after the fault."""
    root = tmp_path / dataset
    shutil.copytree(phantoms / dataset, root)
    case = next(iter(phantom_cases(root).values()))
    before = {path: path.read_bytes() for path in (*case.images, case.label)}
    inject(name, case)
    return root, case, before


def data(path):
    return np.asanyarray(nib.load(path).dataobj)


def test_cases_are_found(phantoms):
    counts = {"acdc": (6, 1), "brats": (3, 4), "flare": (3, 1)}
    for dataset, (cases, channels) in counts.items():
        found = phantom_cases(phantoms / dataset)
        assert len(found) == cases
        assert list(found) == sorted(found)
        for name, case in found.items():
            assert case.dataset == dataset
            assert len(case.images) == channels
            assert all(path.name.startswith(name) for path in (*case.images, case.label))
            assert np.unique(data(case.label)).size > 2
    with pytest.raises(ValueError, match="must be a phantom's folder"):
        phantom_cases(phantoms)


@pytest.mark.parametrize(
    ("name", "dataset"),
    [(name, dataset) for name, fault in FAULTS.items() for dataset in fault.datasets],
)
def test_a_fault_changes_one_case_alone(name, dataset, phantoms, tmp_path):
    root, case, before = with_fault(name, dataset, phantoms, tmp_path)
    if name == "odd-name":
        folder = next(path for path in root.iterdir() if path.name.endswith(" ä データ"))
        assert len(list(folder.rglob("*.nii.gz"))) == len(list(phantoms.rglob("*.nii.gz"))) - sum(
            len(list((phantoms / other).rglob("*.nii.gz")))
            for other in ("acdc", "brats", "flare")
            if other != dataset
        )
        return
    changed = {path for path, content in before.items() if not path.is_file()}
    changed |= {path for path in set(before) - changed if path.read_bytes() != before[path]}
    added = {p for p in root.rglob("*") if p.is_file()} - {
        root / p.relative_to(phantoms / dataset)
        for p in (phantoms / dataset).rglob("*")
        if p.is_file()
    }
    assert changed or added
    others = [p for p in root.rglob("*.nii*") if p not in before and p not in added]
    assert others
    for path in others:
        assert path.read_bytes() == (phantoms / dataset / path.relative_to(root)).read_bytes()
    if name in UNREADABLE:
        with pytest.raises(NiftiError):
            _ = [read_volume(path) for path in (*case.images, case.label)]


def test_faults_of_the_header(phantoms, tmp_path):
    _, case, _ = with_fault("unit-sform", "acdc", phantoms, tmp_path / "a")
    header = nib.load(case.label).header
    np.testing.assert_array_equal(np.abs(np.diag(header.get_sform())), 1)
    assert header.get_zooms()[2] == header.get_qform()[2, 2] == 10
    for name, voxels in (("nudged-label", 1e-4), ("shifted-label", 1.0)):
        _, case, _ = with_fault(name, "flare", phantoms, tmp_path / name)
        image, label = nib.load(case.images[0]), nib.load(case.label)
        gap = np.linalg.inv(image.affine) @ label.affine - np.eye(4)
        assert np.abs(gap[:3, 3]).max() == pytest.approx(voxels, rel=0.2)
    _, case, _ = with_fault("negative-spacing", "brats", phantoms, tmp_path / "b")
    stored = struct.unpack_from("<f", gzip.decompress(case.images[0].read_bytes()), 80)
    assert stored == (-4.0,)  # nibabel would tell its absolute value
    _, case, _ = with_fault("promises-more", "brats", phantoms, tmp_path / "c")
    assert nib.load(case.images[0]).shape[2] == nib.load(case.label).shape[2] + 7


def test_faults_of_the_labels(phantoms, tmp_path):
    def labels(name, dataset="brats"):
        _, case, _ = with_fault(name, dataset, phantoms, tmp_path / f"{name} {dataset}")
        return data(case.label), data(phantom_cases(phantoms / dataset)[case_name(case)].label)

    def case_name(case):
        return sorted(phantom_cases(phantoms / case.dataset))[0]

    new, old = labels("absent-label")
    assert set(np.unique(new)) == set(np.unique(old)) - {old.max()}
    new, old = labels("empty-label")
    assert not new.any()
    new, old = labels("empty-slices")
    assert not new[..., : old.shape[-1] // 2].any()
    assert new.any()
    new, old = labels("noisy-labels")
    assert 0 < np.abs(new - old).max() < 1e-6
    new, old = labels("float-labels")
    assert new.dtype == np.float32
    np.testing.assert_array_equal(new, old)
    new, old = labels("unknown-label")
    assert 77 in new
    new, old = labels("half-labels")
    assert 0.5 in new
    new, old = labels("swapped-scheme")
    np.testing.assert_array_equal(new == 3, old == 4)
    new, old = labels("one-slice")
    assert new.shape == (*old.shape[:2], 1)
    truth = next((tmp_path / "one-slice brats" / "brats" / "posterior").glob("*/*.npz"))
    assert load_posterior(truth).shape == (4, *new.shape)
    new, old = labels("tubes-on-part", "flare")
    other = ~np.isin(old, (5, 6, 10))
    np.testing.assert_array_equal(new[other], old[other])
    assert 0 < np.isin(new, (5, 6, 10)).sum() < 0.7 * np.isin(old, (5, 6, 10)).sum()


def test_faults_of_names(phantoms, tmp_path):
    root, case, _ = with_fault("no-frame-one", "acdc", phantoms, tmp_path)
    info = dict(line.split(": ") for line in (case.folder / "Info.cfg").read_text().splitlines())
    assert info["ED"] in ("3", "4")
    patient = case.folder.name
    assert find_nifti(case.folder, f"{patient}_frame{int(info['ED']):02d}")
    assert find_nifti(case.folder, f"{patient}_frame{int(info['ED']):02d}_gt")
    assert len(list(case.folder.glob("*.nii.gz"))) == 4
    posteriors = {path.stem for path in case.posterior.parent.iterdir()}
    assert posteriors == {f"{patient}_frame{int(info[k]):02d}" for k in ("ED", "ES")}

    root, case, _ = with_fault("misnamed-segmentation", "brats", phantoms, tmp_path)
    assert (case.folder / "W39_1998.09.19_Segm.nii.gz").is_file()
    assert not case.label.exists()

    root, case, _ = with_fault("other-suffix", "flare", phantoms, tmp_path)
    plain = case.label.with_suffix("")
    assert plain.suffix == ".nii"
    assert not case.label.exists()
    inject("other-suffix", replace(case, images=(), label=plain))
    np.testing.assert_array_equal(
        data(case.label), data(phantoms / case.label.relative_to(tmp_path))
    )
    assert json.loads((root / "phantom.json").read_text())["dataset"] == "flare"


def test_what_cannot_be_injected(phantoms, tmp_path):
    case = next(iter(phantom_cases(phantoms / "brats").values()))
    with pytest.raises(ValueError, match=r"fault must be one of unit-sform, .*, got 'rust'"):
        inject("rust", case)
    with pytest.raises(ValueError, match="unit-sform is no fault of brats"):
        inject("unit-sform", case)
    shutil.copytree(phantoms / "brats", tmp_path / "brats")
    (tmp_path / "brats" / "phantom.json").unlink()
    moved = replace(case, label=tmp_path / case.label.relative_to(phantoms))
    with pytest.raises(ValueError, match="in no phantom's folder, and is left alone"):
        inject("truncated-label", moved)
