"""Faults of real downloads, to be injected into a phantom: what a reader has to bear or to refuse.

Each fault is a function of one case's files, and has an entry in :data:`FAULTS` that says whether
a reader must bear it (``harmless``) or must refuse the case, and to which datasets it applies::

    cases = phantom_cases(root)
    inject("shifted-label", cases["BraTS2021_00000"])

Faults change what is on disk for good, and for real data there is no way back: :func:`inject`
refuses files that are in no phantom's folder.
"""

from __future__ import annotations

import gzip
import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from datamodules.nifti import stem
from datamodules.origin import phantom_home
from datamodules.posterior import load_posterior, save_posterior

ALL = ("acdc", "brats", "flare")
_DIM, _PIXDIM, _SROW = 40, 76, 280  # places in the header of NIfTI-1


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case of a phantom.

    Args:
        dataset: ``acdc``, ``brats`` or ``flare``.
        images: One file for each input channel.
        label: The label file.
        posterior: The posterior of the labels as they were drawn; few faults change it.
    """

    dataset: str
    images: tuple[Path, ...]
    label: Path
    posterior: Path

    @property
    def folder(self) -> Path:
        """Where the label is."""
        return self.label.parent


@dataclass(frozen=True)
class Fault:
    """A fault.

    Args:
        apply: Changes the files of a case.
        harmless: Whether a reader must bear it; otherwise it must name and refuse the case.
        datasets: Where it occurs.
    """

    apply: Callable[[CaseFiles], None]
    harmless: bool
    datasets: tuple[str, ...] = ALL


def phantom_cases(root: Path) -> dict[str, CaseFiles]:
    """Return the files of every case of the phantom in ``root``, by the case's name, sorted.

    Raises:
        ValueError: ``root`` is not the folder of a phantom.
    """
    card = root / "phantom.json"
    if not card.is_file():
        raise ValueError(f"{root} must be a phantom's folder, it has no phantom.json.")
    dataset = json.loads(card.read_text())["dataset"]
    cases: dict[str, CaseFiles] = {}
    for truth in sorted((root / "posterior").glob("*/*.npz")):
        name = truth.stem
        files = sorted(path for path in root.rglob(f"{name}*.nii*") if path.is_file())
        if dataset == "flare":
            label = next(path for path in files if path.parent.name in _FLARE_LABELS)
        else:
            ends = ("_gt", "_seg", "-seg")
            label = next(path for path in files if stem(path).endswith(ends))
        images = tuple(path for path in files if path != label)
        cases[name] = CaseFiles(dataset, images, label, truth)
    return cases


def inject(name: str, case: CaseFiles) -> None:
    """Inject the fault ``name`` into a case of a phantom.

    Raises:
        ValueError: There is no such fault, it is not one of the case's dataset, or the files are
            not a phantom's.
    """
    if name not in FAULTS:
        raise ValueError(f"fault must be one of {', '.join(FAULTS)}, got {name!r}.")
    if case.dataset not in FAULTS[name].datasets:
        raise ValueError(f"{name} is no fault of {case.dataset}.")
    if phantom_home(case.label) is None:
        raise ValueError(f"{case.label} is in no phantom's folder, and is left alone.")
    FAULTS[name].apply(case)


_FLARE_LABELS = ("TrainingMask", "labels", "labelsTr")


# Bytes and voxels ------------------------------------------------------------------------------


def _patch(path: Path, change: Callable[[bytearray], bytearray | None]) -> None:
    """Change the unpacked bytes of a file."""
    packed = path.suffix == ".gz"
    content = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    changed = change(content)
    content = content if changed is None else changed
    path.write_bytes(gzip.compress(bytes(content), 1, mtime=0) if packed else bytes(content))


def _put(path: Path, place: int, form: str, *values: float) -> None:
    """Write numbers at a place of the header."""
    _patch(path, lambda content: struct.pack_into(form, content, place, *values))


def _redo(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Write the file anew with changed voxels, and their type; the header stays."""
    image = nib.load(path)
    data = change(np.asanyarray(image.dataobj).copy())
    header = image.header.copy()
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    nib.save(nib.Nifti1Image(data, None, header), path)


def _move(path: Path, voxels: float) -> None:
    """Move a file's grid along its first axis, in the sform and in the qform."""
    image = nib.load(path)
    affine = image.affine.copy()
    affine[:3, 3] += voxels * affine[:3, 0]
    header = image.header.copy()
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1)
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj).copy(), None, header), path)


# What a reader must bear -----------------------------------------------------------------------


def unit_sform(case: CaseFiles) -> None:
    """The sform has unit scales; only qform and pixdim hold the voxel size (some ACDC files)."""
    for path in (*case.images, case.label):
        rows = (-1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0)
        _put(path, _SROW, "<12f", *rows)


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
    _redo(case.label, lambda data: np.where(data == data.max(), 0, data).astype(data.dtype))


def empty_label(case: CaseFiles) -> None:
    """Nothing is labelled at all."""
    _redo(case.label, np.zeros_like)


def empty_slices(case: CaseFiles) -> None:
    """The lower half of the slices is not labelled."""

    def change(data: np.ndarray) -> np.ndarray:
        data[..., : data.shape[-1] // 2] = 0
        return data

    _redo(case.label, change)


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

    _redo(case.label, change)


def noisy_labels(case: CaseFiles) -> None:
    """Labels are stored as floats that rounding errors left near integers."""
    _redo(case.label, lambda data: (data * 1.00000005).astype(np.float64))


def float_labels(case: CaseFiles) -> None:
    """Labels are stored as whole numbers of a floating type."""
    _redo(case.label, lambda data: data.astype(np.float32))


def nudged_label(case: CaseFiles) -> None:
    """Image and label differ by a ten-thousandth of a voxel in place."""
    _move(case.label, 1e-4)


def resource_forks(case: CaseFiles) -> None:
    """A Mac left a file ``._name`` beside each file."""
    for path in (*case.images, case.label):
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X")


def negative_spacing(case: CaseFiles) -> None:
    """The voxel size in pixdim is negative; nibabel reads its absolute value."""
    for path in (*case.images, case.label):
        size = float(nib.load(path).header.get_zooms()[0])
        _put(path, _PIXDIM + 4, "<f", -size)


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
        _redo(path, change)
    save_posterior(case.posterior, change(load_posterior(case.posterior)))


# What a reader must refuse ---------------------------------------------------------------------


def shifted_label(case: CaseFiles) -> None:
    """Image and label are one voxel apart."""
    _move(case.label, 1.0)


def other_shape(case: CaseFiles) -> None:
    """The last image has a slice less than the others and the label."""
    _redo(case.images[-1], lambda data: data[..., :-1])


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

    _redo(case.label, change)


def half_labels(case: CaseFiles) -> None:
    """Labels between integers, as linear resampling leaves them."""
    _redo(case.label, lambda data: (data / 2).astype(np.float32))


def zero_spacing(case: CaseFiles) -> None:
    """The slice distance is 0, in pixdim and in the sform."""
    for path in (*case.images, case.label):
        _put(path, _PIXDIM + 12, "<f", 0.0)
        for row in range(3):
            _put(path, _SROW + 16 * row + 8, "<f", 0.0)


def nan_spacing(case: CaseFiles) -> None:
    """The voxel size is not a number."""
    for path in (*case.images, case.label):
        _put(path, _PIXDIM + 4, "<f", float("nan"))


def two_sizes(case: CaseFiles) -> None:
    """The sform holds twice the voxel size of pixdim, and neither is 1."""
    for path in (*case.images, case.label):
        affine = nib.load(path).affine
        rows = (affine @ np.diag([2.3, 2.3, 2.3, 1]))[:3].ravel()
        _put(path, _SROW, "<12f", *rows.tolist())


def promises_more(case: CaseFiles) -> None:
    """The header promises more slices than the file holds."""
    depth = int(nib.load(case.images[0]).shape[2])
    _put(case.images[0], _DIM + 6, "<h", depth + 7)


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
    _redo(case.images[0], lambda data: np.stack([data, data], axis=-1))


def not_finite(case: CaseFiles) -> None:
    """An image with voxels that are not numbers."""

    def change(data: np.ndarray) -> np.ndarray:
        data = data.astype(np.float32)
        data[0, 0] = np.nan
        return data

    _redo(case.images[0], change)


def constant_image(case: CaseFiles) -> None:
    """An image of one value."""
    _redo(case.images[0], np.zeros_like)


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

    _redo(case.label, change)


FAULTS: dict[str, Fault] = {
    "unit-sform": Fault(unit_sform, True, ("acdc",)),
    "no-frame-one": Fault(no_frame_one, True, ("acdc",)),
    "misnamed-segmentation": Fault(misnamed_segmentation, True, ("brats",)),
    "other-suffix": Fault(other_suffix, True),
    "absent-label": Fault(absent_label, True),
    "empty-label": Fault(empty_label, True),
    "empty-slices": Fault(empty_slices, True),
    "tubes-on-part": Fault(tubes_on_part, True, ("flare",)),
    "noisy-labels": Fault(noisy_labels, True),
    "float-labels": Fault(float_labels, True),
    "nudged-label": Fault(nudged_label, True),
    "resource-forks": Fault(resource_forks, True),
    "negative-spacing": Fault(negative_spacing, True),
    "odd-name": Fault(odd_name, True),
    "one-slice": Fault(one_slice, True),
    "shifted-label": Fault(shifted_label, False),
    "other-shape": Fault(other_shape, False),
    "missing-image": Fault(missing_image, False),
    "missing-label": Fault(missing_label, False),
    "unknown-label": Fault(unknown_label, False),
    "half-labels": Fault(half_labels, False),
    "zero-spacing": Fault(zero_spacing, False),
    "nan-spacing": Fault(nan_spacing, False),
    "two-sizes": Fault(two_sizes, False),
    "promises-more": Fault(promises_more, False),
    "truncated": Fault(truncated, False),
    "truncated-label": Fault(truncated_label, False),
    "empty-file": Fault(empty_file, False),
    "web-page": Fault(web_page, False),
    "four-dimensions": Fault(four_dimensions, False),
    "not-finite": Fault(not_finite, False),
    "constant-image": Fault(constant_image, False),
    "duplicated": Fault(duplicated, False),
    "swapped-scheme": Fault(swapped_scheme, False, ("brats",)),
}
