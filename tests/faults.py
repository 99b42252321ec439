"""Faults of real downloads, to be injected into a phantom: accepted or refused by a reader.

Each is a function of one case's files, and changes them for good::

    cases = phantom_cases(root)
    inject("shifted-label", cases["BraTS2021_00000"])

For real data there is no way back: :func:`inject` refuses files that are in no phantom's folder.
"""

import gzip
import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from datamodules.origin import phantom_home
from datamodules.phantom import load_posterior, save_posterior
from datamodules.reading.nifti import stem

ALL = ("acdc", "brats", "flare")
DIM, PIXDIM, VOX_OFFSET, SROW = 40, 76, 108, 280  # places in the header of NIfTI-1
_FLARE_LABELS = ("TrainingMask", "labels", "labelsTr")


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
    datasets: tuple[str, ...]


FAULTS: dict[str, Fault] = {}


def fault(*datasets: str, harmless: bool) -> Callable[[Callable[[CaseFiles], None]], None]:
    """Enter a function as the fault of its name, in some datasets or in all."""

    def enter(apply: Callable[[CaseFiles], None]) -> None:
        name = apply.__name__.replace("_", "-")
        FAULTS[name] = Fault(apply, harmless, datasets or ALL)

    return enter


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


def patch(path: Path, change: Callable[[bytearray], bytearray | None]) -> None:
    """Change the unpacked bytes of a file."""
    packed = path.suffix == ".gz"
    content = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    changed = change(content)
    content = content if changed is None else changed
    path.write_bytes(gzip.compress(bytes(content), 1, mtime=0) if packed else bytes(content))


def put(path: Path, place: int, form: str, *values: float) -> None:
    """Write numbers at a place of the header."""
    patch(path, lambda content: struct.pack_into(form, content, place, *values))


def redo(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Write changed voxels and their type; the rest of the header stays."""
    image = nib.load(path)
    data = change(np.asanyarray(image.dataobj).copy())
    header = image.header.copy()
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    nib.save(nib.Nifti1Image(data, None, header), path)


def move(path: Path, voxels: float) -> None:
    """Move a file's grid along its first axis, in the sform and in the qform."""
    image = nib.load(path)
    affine = image.affine.copy()
    affine[:3, 3] += voxels * affine[:3, 0]
    header = image.header.copy()
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1)
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj).copy(), None, header), path)


# What a reader must bear ---------------------------------------------------------------------


@fault("acdc", harmless=True)
def unit_sform(case: CaseFiles) -> None:
    """The sform has unit scales; only qform and pixdim give the voxel size (some ACDC files)."""
    for path in (*case.images, case.label):
        rows = (-1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0)
        put(path, SROW, "<12f", *rows)


@fault("acdc", harmless=True)
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


@fault("brats", harmless=True)
def misnamed_segmentation(case: CaseFiles) -> None:
    """The label's name is not formed from the case's, as in a copy of BraTS20_Training_355."""
    suffix = case.label.name.removeprefix(stem(case.label))
    case.label.rename(case.folder / f"W39_1998.09.19_Segm{suffix}")


@fault(harmless=True)
def other_suffix(case: CaseFiles) -> None:
    """``.nii`` where ``.nii.gz`` is due, or the other way round."""
    for path in (*case.images, case.label):
        if path.suffix == ".gz":
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        else:
            packed = gzip.compress(path.read_bytes(), 1, mtime=0)
            path.with_name(f"{path.name}.gz").write_bytes(packed)
        path.unlink()


@fault(harmless=True)
def absent_label(case: CaseFiles) -> None:
    """The greatest label is absent: in BraTS a tumour that does not enhance."""
    redo(case.label, lambda data: np.where(data == data.max(), 0, data).astype(data.dtype))


@fault(harmless=True)
def empty_label(case: CaseFiles) -> None:
    """Nothing is labeled at all."""
    redo(case.label, np.zeros_like)


@fault(harmless=True)
def empty_slices(case: CaseFiles) -> None:
    """The lower half of the labeled slices has no labels."""

    def change(data: np.ndarray) -> np.ndarray:
        labeled = np.flatnonzero(data.any(axis=(0, 1)))
        data[..., : labeled[len(labeled) // 2]] = 0
        return data

    redo(case.label, change)


@fault("flare", harmless=True)
def tubes_on_part(case: CaseFiles) -> None:
    """Aorta, inferior vena cava and oesophagus are labeled on the middle slices alone."""

    def change(data: np.ndarray) -> np.ndarray:
        affine = nib.load(case.label).affine
        axis = int(np.argmax(np.abs(affine[2, :3])))  # the one that runs from foot to head
        low, high = data.shape[axis] // 3, 2 * data.shape[axis] // 3
        view = np.moveaxis(data, axis, 0)
        for part in (view[:low], view[high:]):
            part[np.isin(part, (5, 6, 10))] = 0
        return data

    redo(case.label, change)


@fault(harmless=True)
def noisy_labels(case: CaseFiles) -> None:
    """Labels are stored as floats that rounding errors left near integers."""
    redo(case.label, lambda data: (data * 1.00000005).astype(np.float64))


@fault(harmless=True)
def float_labels(case: CaseFiles) -> None:
    """Labels are stored as whole numbers of a floating type."""
    redo(case.label, lambda data: data.astype(np.float32))


@fault(harmless=True)
def nudged_label(case: CaseFiles) -> None:
    """Image and label differ by a ten-thousandth of a voxel in place."""
    move(case.label, 1e-4)


@fault(harmless=True)
def resource_forks(case: CaseFiles) -> None:
    """A Mac left a file ``._name`` next to each file."""
    for path in (*case.images, case.label):
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X")


@fault(harmless=True)
def negative_spacing(case: CaseFiles) -> None:
    """The voxel size in pixdim is negative; nibabel reads its absolute value."""
    for path in (*case.images, case.label):
        size = float(nib.load(path).header.get_zooms()[0])
        put(path, PIXDIM + 4, "<f", -size)


@fault(harmless=True)
def odd_name(case: CaseFiles) -> None:
    """The folder of the data has spaces and letters that are not English."""
    home = phantom_home(case.label)
    if home is None:
        raise ValueError(f"{case.label} is in no phantom's folder.")
    top = home / case.label.relative_to(home).parts[0]
    top.rename(top.with_name(f"{top.name} ä データ"))


@fault(harmless=True)
def one_slice(case: CaseFiles) -> None:
    """Image and label are one voxel thick."""

    def change(data: np.ndarray) -> np.ndarray:
        middle = data.shape[-1] // 2
        return data[..., middle : middle + 1]

    for path in (*case.images, case.label):
        redo(path, change)
    save_posterior(case.posterior, change(load_posterior(case.posterior)))


# What a reader must name and refuse -----------------------------------------------------------


@fault(harmless=False)
def shifted_label(case: CaseFiles) -> None:
    """Image and label are one voxel apart."""
    move(case.label, 1.0)


@fault(harmless=False)
def other_shape(case: CaseFiles) -> None:
    """The last image has a slice less than the others and the label."""
    redo(case.images[-1], lambda data: data[..., :-1])


@fault(harmless=False)
def missing_image(case: CaseFiles) -> None:
    """An image (a modality) is not there."""
    case.images[0].unlink()


@fault(harmless=False)
def missing_label(case: CaseFiles) -> None:
    """The label is not there."""
    case.label.unlink()


@fault(harmless=False)
def unknown_label(case: CaseFiles) -> None:
    """A label that the dataset does not have."""

    def change(data: np.ndarray) -> np.ndarray:
        data[tuple(n // 2 for n in data.shape)] = 77
        return data

    redo(case.label, change)


@fault(harmless=False)
def half_labels(case: CaseFiles) -> None:
    """Labels between integers, as linear resampling leaves them."""
    redo(case.label, lambda data: (data / 2).astype(np.float32))


@fault(harmless=False)
def zero_spacing(case: CaseFiles) -> None:
    """The slice distance is 0, in pixdim and in the sform."""
    for path in (*case.images, case.label):
        put(path, PIXDIM + 12, "<f", 0.0)
        for row in range(3):
            put(path, SROW + 16 * row + 8, "<f", 0.0)


@fault(harmless=False)
def nan_spacing(case: CaseFiles) -> None:
    """The voxel size is not a number."""
    for path in (*case.images, case.label):
        put(path, PIXDIM + 4, "<f", float("nan"))


@fault(harmless=False)
def two_sizes(case: CaseFiles) -> None:
    """The sform gives twice the voxel size of pixdim, and neither is 1."""
    for path in (*case.images, case.label):
        affine = nib.load(path).affine
        rows = (affine @ np.diag([2.3, 2.3, 2.3, 1]))[:3].ravel()
        put(path, SROW, "<12f", *rows.tolist())


@fault(harmless=False)
def promises_more(case: CaseFiles) -> None:
    """The header promises more slices than the file has."""
    depth = int(nib.load(case.images[0]).shape[2])
    put(case.images[0], DIM + 6, "<h", depth + 7)


@fault(harmless=False)
def truncated(case: CaseFiles) -> None:
    """The download broke off: half a file."""
    content = case.images[0].read_bytes()
    case.images[0].write_bytes(content[: len(content) // 2])


@fault(harmless=False)
def truncated_label(case: CaseFiles) -> None:
    """The label's download broke off."""
    content = case.label.read_bytes()
    case.label.write_bytes(content[: len(content) // 2])


@fault(harmless=False)
def empty_file(case: CaseFiles) -> None:
    """A file of no bytes."""
    case.images[0].write_bytes(b"")


@fault(harmless=False)
def web_page(case: CaseFiles) -> None:
    """A log-in page was saved under the image's name."""
    case.images[0].write_text("<!DOCTYPE html><title>Sign in</title>")


@fault(harmless=False)
def four_dimensions(case: CaseFiles) -> None:
    """A series where a volume is due."""
    redo(case.images[0], lambda data: np.stack([data, data], axis=-1))


@fault(harmless=False)
def not_finite(case: CaseFiles) -> None:
    """An image with voxels that are not numbers."""

    def change(data: np.ndarray) -> np.ndarray:
        data = data.astype(np.float32)
        data[0, 0] = np.nan
        return data

    redo(case.images[0], change)


@fault(harmless=False)
def constant_image(case: CaseFiles) -> None:
    """An image of one value."""
    redo(case.images[0], np.zeros_like)


@fault(harmless=False)
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


@fault("brats", harmless=False)
def swapped_scheme(case: CaseFiles) -> None:
    """Enhancing tumour as 3 in a release that has 4, or as 4 in one that has 3."""

    def change(data: np.ndarray) -> np.ndarray:
        return np.where(data == 4, 3, np.where(data == 3, 4, data)).astype(data.dtype)

    redo(case.label, change)
