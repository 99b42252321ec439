"""Faults for which a reader must name and refuse the case: each changes its files for good."""

from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np

from datamodules.phantom.faults.case_files import CaseFiles
from datamodules.phantom.faults.edits import DIM, PIXDIM, SROW, move, put, redo


def shifted_label(case: CaseFiles) -> None:
    """Image and label are one voxel apart."""
    move(case.label, 1.0)


def other_shape(case: CaseFiles) -> None:
    """The last image has a slice less than the others and the label."""
    redo(case.images[-1], lambda data: data[..., :-1])


def missing_image(case: CaseFiles) -> None:
    """An image (a modality) is not there."""
    case.images[0].unlink()


def missing_label(case: CaseFiles) -> None:
    """The label is not there."""
    case.label.unlink()


def unknown_label(case: CaseFiles) -> None:
    """A label that the dataset does not have."""

    def change(data: np.ndarray) -> np.ndarray:
        data[tuple(n // 2 for n in data.shape)] = 77
        return data

    redo(case.label, change)


def half_labels(case: CaseFiles) -> None:
    """Labels between integers, as linear resampling leaves them."""
    redo(case.label, lambda data: (data / 2).astype(np.float32))


def zero_spacing(case: CaseFiles) -> None:
    """The slice distance is 0, in pixdim and in the sform."""
    for path in (*case.images, case.label):
        put(path, PIXDIM + 12, "<f", 0.0)
        for row in range(3):
            put(path, SROW + 16 * row + 8, "<f", 0.0)


def nan_spacing(case: CaseFiles) -> None:
    """The voxel size is not a number."""
    for path in (*case.images, case.label):
        put(path, PIXDIM + 4, "<f", float("nan"))


def two_sizes(case: CaseFiles) -> None:
    """The sform holds twice the voxel size of pixdim, and neither is 1."""
    for path in (*case.images, case.label):
        affine = nib.load(path).affine
        rows = (affine @ np.diag([2.3, 2.3, 2.3, 1]))[:3].ravel()
        put(path, SROW, "<12f", *rows.tolist())


def promises_more(case: CaseFiles) -> None:
    """The header promises more slices than the file holds."""
    depth = int(nib.load(case.images[0]).shape[2])
    put(case.images[0], DIM + 6, "<h", depth + 7)


def truncated(case: CaseFiles) -> None:
    """The download broke off: half a file."""
    content = case.images[0].read_bytes()
    case.images[0].write_bytes(content[: len(content) // 2])


def truncated_label(case: CaseFiles) -> None:
    """The label's download broke off."""
    content = case.label.read_bytes()
    case.label.write_bytes(content[: len(content) // 2])


def empty_file(case: CaseFiles) -> None:
    """A file of no bytes."""
    case.images[0].write_bytes(b"")


def web_page(case: CaseFiles) -> None:
    """A log-in page was saved under the image's name."""
    case.images[0].write_text("<!DOCTYPE html><title>Sign in</title>")


def four_dimensions(case: CaseFiles) -> None:
    """A series where a volume is due."""
    redo(case.images[0], lambda data: np.stack([data, data], axis=-1))


def not_finite(case: CaseFiles) -> None:
    """An image with voxels that are not numbers."""

    def change(data: np.ndarray) -> np.ndarray:
        data = data.astype(np.float32)
        data[0, 0] = np.nan
        return data

    redo(case.images[0], change)


def constant_image(case: CaseFiles) -> None:
    """An image of one value."""
    redo(case.images[0], np.zeros_like)


def duplicated(case: CaseFiles) -> None:
    """The case is there twice, in two folders of the download.

    ACDC: the patient is in training and in testing. BraTS: in a second grade's folder, where the
    release has grades, else in a folder of the same name one level deeper. FLARE: the case lies
    in the image and label folders of a second copy.
    """
    if case.dataset == "flare":
        for path in (*case.images, case.label):
            copy = path.parent.parent / "copy" / path.parent.name / path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
        return
    home = case.folder.parent
    other = {"training": "testing", "testing": "training", "HGG": "LGG", "LGG": "HGG"}
    target = home.with_name(other[home.name]) if home.name in other else home / "copy"
    shutil.copytree(case.folder, target / case.folder.name)


def swapped_scheme(case: CaseFiles) -> None:
    """Enhancing tumour as 3 in a release that has 4, or as 4 in one that has 3."""

    def change(data: np.ndarray) -> np.ndarray:
        return np.where(data == 4, 3, np.where(data == 3, 4, data)).astype(data.dtype)

    redo(case.label, change)
