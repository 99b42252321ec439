"""The faults of tests/faults.py: each changes only the files of its case, by its name."""

import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from datamodules.phantom import load_posterior
from datamodules.reading.nifti import NiftiError, read_volume
from tests.faults import FAULTS, inject, phantom_cases

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


def with_fault(name, dataset, roots, tmp_path):
    """A copy of the dataset's phantom, its first case before and after the fault."""
    root = tmp_path / dataset
    shutil.copytree(roots[dataset], root)
    case = next(iter(phantom_cases(root).values()))
    before = {path: path.read_bytes() for path in (*case.images, case.label)}
    inject(name, case)
    return root, case, before


def data(path):
    return np.asanyarray(nib.load(path).dataobj)


def test_cases_are_found(roots):
    counts = {"acdc": (8, 1), "brats": (4, 4), "flare": (4, 1)}
    for dataset, (cases, channels) in counts.items():
        found = phantom_cases(roots[dataset])
        assert len(found) == cases
        assert list(found) == sorted(found)
        for name, case in found.items():
            assert case.dataset == dataset
            assert len(case.images) == channels
            assert all(path.name.startswith(name) for path in (*case.images, case.label))
            assert np.unique(data(case.label)).size > 2
    with pytest.raises(ValueError, match="must be a phantom's folder"):
        phantom_cases(roots["acdc"].parent)


@pytest.mark.parametrize(
    ("name", "dataset"),
    [(name, dataset) for name, fault in FAULTS.items() for dataset in fault.datasets],
)
def test_a_fault_changes_one_case_alone(name, dataset, roots, tmp_path):
    root, case, before = with_fault(name, dataset, roots, tmp_path)
    if name == "odd-name":
        (folder,) = (path for path in root.iterdir() if path.name.endswith(" ä データ"))
        assert len(list(folder.rglob("*.nii.gz"))) == len(list(roots[dataset].rglob("*.nii.gz")))
        return
    changed = {path for path, content in before.items() if not path.is_file()}
    changed |= {path for path in set(before) - changed if path.read_bytes() != before[path]}
    added = {p for p in root.rglob("*") if p.is_file()} - {
        root / p.relative_to(roots[dataset]) for p in roots[dataset].rglob("*") if p.is_file()
    }
    assert changed or added
    others = [p for p in root.rglob("*.nii*") if p not in before and p not in added]
    assert others
    for path in others:
        assert path.read_bytes() == (roots[dataset] / path.relative_to(root)).read_bytes()
    if name in UNREADABLE:
        with pytest.raises(NiftiError):
            _ = [read_volume(path) for path in (*case.images, case.label)]


def test_faults_of_the_labels(roots, tmp_path):
    def labels(name, dataset="brats"):
        _, case, _ = with_fault(name, dataset, roots, tmp_path / f"{name} {dataset}")
        (old, *_) = phantom_cases(roots[dataset]).values()
        return data(case.label), data(old.label)

    new, old = labels("absent-label")
    assert set(np.unique(new)) == set(np.unique(old)) - {old.max()}
    new, old = labels("empty-label")
    assert not new.any()
    new, old = labels("empty-slices")
    assert 0 < new.any(axis=(0, 1)).sum() < old.any(axis=(0, 1)).sum()
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
    (case, *_) = phantom_cases(tmp_path / "one-slice brats" / "brats").values()
    assert load_posterior(case.posterior).shape == (4, *new.shape)
    new, old = labels("tubes-on-part", "flare")
    other = ~np.isin(old, (5, 6, 10))
    np.testing.assert_array_equal(new[other], old[other])
    assert 0 < np.isin(new, (5, 6, 10)).sum() < 0.7 * np.isin(old, (5, 6, 10)).sum()


def test_faults_that_cannot_be_injected(roots, tmp_path):
    case = next(iter(phantom_cases(roots["brats"]).values()))
    with pytest.raises(ValueError, match=r"fault must be one of unit-sform, .*, got 'rust'"):
        inject("rust", case)
    with pytest.raises(ValueError, match="unit-sform is no fault of brats"):
        inject("unit-sform", case)
    shutil.copytree(roots["brats"], tmp_path / "brats")
    (tmp_path / "brats" / "phantom.json").unlink()
    moved = replace(case, label=tmp_path / case.label.relative_to(roots["brats"].parent))
    with pytest.raises(ValueError, match="in no phantom's folder, and is left alone"):
        inject("truncated-label", moved)
