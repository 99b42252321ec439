"""Faults that a reader must bear: each changes a case's files for good."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np

from datamodules.origin import phantom_home
from datamodules.phantom.faults.case_files import CaseFiles
from datamodules.phantom.faults.edits import PIXDIM, SROW, move, put, redo
from datamodules.reading.nifti import stem
from datamodules.reading.posterior import load_posterior, save_posterior


def unit_sform(case: CaseFiles) -> None:
    """The sform has unit scales; only qform and pixdim hold the voxel size (some ACDC files)."""
    for path in (*case.images, case.label):
        rows = (-1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0)
        put(path, SROW, "<12f", *rows)


def no_frame_one(case: CaseFiles) -> None:
    """The patient's first annotated frame is not frame 1, as in ACDC's patient090."""
    info = case.folder / "Info.cfg"
    lines = dict(line.split(": ", 1) for line in info.read_text().splitlines())
    old, new = int(lines["ED"]), 4
    if old == new or int(lines["ES"]) == new:
        new = 3
    for folder in (case.folder, case.posterior.parent):
        for path in sorted(folder.glob(f"*_frame{old:02d}*")):
            path.rename(path.with_name(path.name.replace(f"_frame{old:02d}", f"_frame{new:02d}")))
    lines["ED"] = str(new)
    info.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))


def misnamed_segmentation(case: CaseFiles) -> None:
    """The label's name is not formed from the case's, as in a copy of BraTS20_Training_355."""
    suffix = case.label.name.removeprefix(stem(case.label))
    case.label.rename(case.folder / f"W39_1998.09.19_Segm{suffix}")


def other_suffix(case: CaseFiles) -> None:
    """``.nii`` where ``.nii.gz`` is due, or the other way round."""
    for path in (*case.images, case.label):
        if path.suffix == ".gz":
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        else:
            packed = gzip.compress(path.read_bytes(), 1, mtime=0)
            path.with_name(f"{path.name}.gz").write_bytes(packed)
        path.unlink()


def absent_label(case: CaseFiles) -> None:
    """The greatest label is absent: in BraTS a tumour that does not enhance."""
    redo(case.label, lambda data: np.where(data == data.max(), 0, data).astype(data.dtype))


def empty_label(case: CaseFiles) -> None:
    """Nothing is labelled at all."""
    redo(case.label, np.zeros_like)


def empty_slices(case: CaseFiles) -> None:
    """The lower half of the slices is not labelled."""

    def change(data: np.ndarray) -> np.ndarray:
        data[..., : data.shape[-1] // 2] = 0
        return data

    redo(case.label, change)


def tubes_on_part(case: CaseFiles) -> None:
    """Aorta, inferior vena cava and oesophagus are labelled on the middle slices alone."""

    def change(data: np.ndarray) -> np.ndarray:
        affine = nib.load(case.label).affine
        axis = int(np.argmax(np.abs(affine[2, :3])))  # the one that runs from foot to head
        low, high = data.shape[axis] // 3, 2 * data.shape[axis] // 3
        view = np.moveaxis(data, axis, 0)
        for part in (view[:low], view[high:]):
            part[np.isin(part, (5, 6, 10))] = 0
        return data

    redo(case.label, change)


def noisy_labels(case: CaseFiles) -> None:
    """Labels are stored as floats that rounding errors left near integers."""
    redo(case.label, lambda data: (data * 1.00000005).astype(np.float64))


def float_labels(case: CaseFiles) -> None:
    """Labels are stored as whole numbers of a floating type."""
    redo(case.label, lambda data: data.astype(np.float32))


def nudged_label(case: CaseFiles) -> None:
    """Image and label differ by a ten-thousandth of a voxel in place."""
    move(case.label, 1e-4)


def resource_forks(case: CaseFiles) -> None:
    """A Mac left a file ``._name`` beside each file."""
    for path in (*case.images, case.label):
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X")


def negative_spacing(case: CaseFiles) -> None:
    """The voxel size in pixdim is negative; nibabel reads its absolute value."""
    for path in (*case.images, case.label):
        size = float(nib.load(path).header.get_zooms()[0])
        put(path, PIXDIM + 4, "<f", -size)


def odd_name(case: CaseFiles) -> None:
    """The folder that holds the data has spaces and letters that are not English."""
    home = phantom_home(case.label)
    if home is None:
        raise ValueError(f"{case.label} is in no phantom's folder.")
    top = home / case.label.relative_to(home).parts[0]
    top.rename(top.with_name(f"{top.name} ä データ"))


def one_slice(case: CaseFiles) -> None:
    """Image and label are one voxel thick."""

    def change(data: np.ndarray) -> np.ndarray:
        middle = data.shape[-1] // 2
        return data[..., middle : middle + 1]

    for path in (*case.images, case.label):
        redo(path, change)
    save_posterior(case.posterior, change(load_posterior(case.posterior)))
