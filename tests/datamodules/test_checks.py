"""Every fault that a case's content can have is found, by check() and by prepare()."""

import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datamodules import ACDCDataModule, DataError
from datamodules.case import Case, Problem
from datamodules.reading.checks import label_fault, map_labels, read_case
from datamodules.reading.posterior import save_posterior
from tests.datamodules.conftest import AFFINE, blobs, save
from tests.faults import put

Build = Callable[..., ACDCDataModule]
SCL_SLOPE = 112  # in the header; the intercept follows
NAME = "patient002_frame01"


def image_of(data: np.ndarray) -> Callable[[Path], object]:
    return lambda folder: save(folder / f"{NAME}.nii.gz", data)


def label_of(data: np.ndarray, affine: np.ndarray = AFFINE) -> Callable[[Path], object]:
    return lambda folder: save(folder / f"{NAME}_gt.nii.gz", data, affine)


def with_voxel(value: float, kind: int) -> np.ndarray:
    data = blobs(0)[kind].astype(np.float32)
    data[3, 4, 1] = value
    return data


def moved(by: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] += by
    return affine


def truncate(folder: Path) -> None:
    path = folder / f"{NAME}.nii.gz"
    path.write_bytes(path.read_bytes()[:500])


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncate, r"the file must be a complete NIfTI file, found 500 bytes"),
    "shapes": (
        label_of(blobs(0, (20, 25, 4))[1]),
        r"must have the same shape, found \(20, 24, 4\) and \(20, 25, 4\)",
    ),
    "affines": (
        label_of(blobs(0)[1], moved(1.5)),
        r"affines of image and label must agree to 0\.2 voxels, found corners 1 voxels apart",
    ),
    "scale": (
        label_of(blobs(0)[1], np.diag([-1.55, -1.5, 10, 1])),
        r"affines of image and label must agree",
    ),
    "nan": (
        image_of(with_voxel(np.nan, 0)),
        r"voxels must be finite, found 1 NaN or infinite voxels, the first at \(3, 4, 1\)",
    ),
    "inf": (image_of(with_voxel(np.inf, 0)), r"voxels must be finite"),
    "label_range": (
        label_of(with_voxel(4, 1)),
        r"labels must be among 0, 1, 2, 3, found 4 \(1 voxels\)",
    ),
    "label_negative": (label_of(with_voxel(-1, 1)), r"among 0, 1, 2, 3, found -1 \(1 voxels\)"),
    "label_fraction": (
        label_of(with_voxel(0.5, 1)),
        r"labels must be integers, found 1 voxels that are not, such as 0\.5",
    ),
    "label_nan": (label_of(with_voxel(np.nan, 1)), r"labels must be integers, found 1 voxels"),
    "zeros": (
        image_of(np.zeros((20, 24, 4), np.int16)),
        r"the image must not be constant, found an image of zeros",
    ),
    "constant": (
        image_of(np.full((20, 24, 4), 7, np.int16)),
        r"the image must not be constant, found the value 7 in every voxel",
    ),
    "four_dimensions": (
        image_of(np.ones((20, 24, 4, 3), np.int16)),
        r"the volume must be 3D, found 4D, shape \(20, 24, 4, 3\)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_found(acdc: Path, module: Build, fault: str) -> None:
    spoil, pattern = FAULTS[fault]
    spoil(acdc / "training" / "patient002")
    (found,) = module().check(progress=False)
    assert found.case == NAME
    assert NAME in found.path
    assert found.fix
    assert re.search(pattern, str(found))
    with pytest.raises(DataError, match=pattern) as error:
        module().prepare(progress=False)
    assert list(error.value.problems) == [found]


@pytest.mark.parametrize("shift", [1e-4, 0.1])
def test_rounded_affine_is_fine(acdc: Path, module: Build, shift: float) -> None:
    label_of(blobs(0)[1], moved(shift))(acdc / "training" / "patient002")
    label_of(blobs(0)[1], AFFINE + 1e-4)(acdc / "training" / "patient002")
    assert module().check(progress=False) == []
    module().prepare(progress=False)


def test_label_as_integral_float_is_fine(acdc: Path, module: Build) -> None:
    label_of(blobs(0)[1].astype(np.float64))(acdc / "training" / "patient002")
    assert module().check(progress=False) == []


def test_all_problems_at_once(acdc: Path, module: Build) -> None:
    FAULTS["nan"][0](acdc / "training" / "patient002")
    FAULTS["label_range"][0](acdc / "training" / "patient002")
    (acdc / "training/patient001/Info.cfg").unlink()
    problems = module().check(progress=False)
    assert [problem.case for problem in problems] == ["patient001", NAME, NAME]
    with pytest.raises(DataError, match=r"^patient001: a patient must have an"):
        module().prepare(progress=False)
    text = str(DataError(problems))
    assert text.startswith("3 problems with the data:\n- patient001: ")
    assert text.count("\n- ") == 3


def test_good_cases_are_kept_and_bad_ones_read_again(acdc: Path, module: Build) -> None:
    FAULTS["nan"][0](acdc / "training" / "patient002")
    with pytest.raises(DataError):
        module().prepare(progress=False)
    assert len(list((module().preparer.cache.folder).glob("patient*"))) == 19
    image_of(blobs(0)[0])(acdc / "training" / "patient002")
    module().prepare(progress=False)
    assert len(list((module().preparer.cache.folder).glob("patient*"))) == 20


def test_missing_root_is_a_problem_too(tmp_path: Path, module: Build) -> None:
    (found,) = module(tmp_path / "nowhere").check(progress=False)
    assert "found no such folder" in str(found)


def test_map_labels() -> None:
    data = np.array([0, 1, 2, 4], np.int16)
    assert map_labels(data, {0: 0, 1: 1, 2: 2, 4: 3}).tolist() == [0, 1, 2, 3]
    assert map_labels(data, {0: 0, 1: 1, 2: 255, 4: 3}).tolist() == [0, 1, 255, 3]
    assert map_labels(data, {k: k for k in range(5)}).dtype == np.uint8


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (np.array([0, 2**63 - 1]), "9223372036854775807 (1 voxels)"),
        (np.array([0, 2**64 - 1], np.uint64), "18446744073709551615 (1 voxels)"),
        (np.array([0, -1], np.int8), "-1 (1 voxels)"),
        (np.array([0, np.inf]), "such as inf"),
        (np.array([0, np.nan]), "such as nan"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_values_of_no_class(values: np.ndarray, found: str) -> None:
    fault = label_fault(values, {0: 0, 1: 1})
    assert fault is not None
    assert found in fault[1]


def test_labels_that_the_header_scales(acdc: Path, module: Build) -> None:
    """Nothing was interpolated: they were stored in 8 bits over their range."""
    path = acdc / "training/patient001/patient001_frame01_gt.nii.gz"
    put(path, SCL_SLOPE, "<ff", 0.988, 0.02)
    (found,) = module().check(progress=False)
    assert found.rule == "labels must be integers"
    assert "multiplies what is stored by 0.988 and adds 0.02" in found.fix
    assert "nearest" not in found.fix


def test_a_link_to_nothing(acdc: Path, module: Build) -> None:
    """A dataset of git-annex whose content was not fetched."""
    path = acdc / "training/patient001/patient001_frame01.nii.gz"
    path.unlink()
    path.symlink_to("../../.git/annex/objects/x")
    (problem,) = module().check(progress=False)
    assert (problem.path, problem.found) == (str(path), "a link to nothing")
    with pytest.raises(DataError, match=r"^patient001_frame01: the file must exist, found a link"):
        module().prepare(progress=False)


def test_posterior_faults(acdc: Path, module: Build) -> None:
    (acdc.parent / "phantom.json").write_text("{}")
    (acdc.parent / "split.json").write_text(
        '{"train": ["patient002"], "val": ["patient001"], "test": ["patient101"]}'
    )
    folder = acdc.parent / "posterior"
    for path in sorted(acdc.glob("*/*/*_gt.nii.gz")):
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        name = path.name.replace("_gt.nii.gz", ".npz")
        save_posterior(folder / path.parent.name / name, np.full((4, 20, 24, 4), 0.25))
    assert module().check(progress=False) == []
    bad = folder / "patient002" / f"{NAME}.npz"
    save_posterior(bad, np.full((3, 20, 24, 4), 1 / 3))
    (found,) = module().check(progress=False)
    assert "found shape (3, 20, 24, 4) in place of (4, 20, 24, 4)" in str(found)
    bad.write_bytes(b"PK")
    (found,) = module().check(progress=False)
    assert "must fit the image, found patient002_frame01.npz must be an npz file" in str(found)


def test_error_survives_pickling() -> None:
    import pickle

    error = DataError([Problem("a", "b", "c", "d", "e")])
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.problems) == (str(error), error.problems)


def test_reading_takes_little_more_memory_than_the_channels(tmp_path: Path) -> None:
    """One file's voxels at a time in addition to the case's own, for any number of modalities."""
    shape, count = (64, 64, 48), 3
    images = [save(tmp_path / f"{k}.nii.gz", blobs(k, shape)[0]) for k in range(count)]
    label = save(tmp_path / "label.nii.gz", blobs(0, shape)[1])
    case = Case("a", "a", tuple(images), label)
    classes = {0: 0, 1: 1, 2: 2, 3: 3}
    read_case(case, label_map=classes, num_classes=4)  # imports and caches are not counted
    tracemalloc.start()
    try:
        raw, problems = read_case(case, label_map=classes, num_classes=4)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert problems == []
    assert raw is not None
    assert peak < (count + 2) * raw.image[0].nbytes
