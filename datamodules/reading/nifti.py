"""Reading NIfTI files, and finding the voxel size that a faulty header hides."""

import gzip
import logging
import math
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import TypeVar

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, ImageDataError
from nibabel.wrapstruct import WrapStructError

SUFFIXES = (".nii.gz", ".nii")
T = TypeVar("T")
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # it names no file; we do
_PIECE = 1 << 16  # bytes
_INFLATION = 1032  # maximum compression ratio of deflate
_FLAT = 1e-3  # volume of three axes of length 1 below which they do not span the space
_UNITS = {1: ("meters", 1e3), 3: ("microns", 1e-3)}  # by code, in mm; "mm" and "unknown" are mm
_SKEW = math.sin(math.radians(0.1))  # cosine of two axes that is more than a header's rounding
_LENGTHS = (1e-4, 100.0)  # mm of a voxel; beyond, resampling leaves one of all, or fills the memory
_UNREADABLE = (  # what nibabel and numpy raise over damaged bytes
    *(ImageFileError, HeaderDataError, ImageDataError, WrapStructError, OSError, EOFError),
    *(ValueError, OverflowError, zlib.error, struct.error),
)


_CONVERT = "Only NIfTI is read (.nii, .nii.gz): convert it; a 2D image may have the shape (X, Y)."
_OTHERS = (  # first bytes, what a file is then, and the way out
    (b"version https://git-lfs", "a pointer of git-lfs in its place", "Fetch it: git lfs pull."),
    (b"/annex/objects/", "a pointer of git-annex in its place", "Fetch it: datalad get."),
    (b"\x89PNG", "a PNG image", _CONVERT),
    (b"\xff\xd8\xff", "a JPEG image", _CONVERT),
    (b"II*\x00", "a TIFF image", _CONVERT),
    (b"MM\x00*", "a TIFF image", _CONVERT),
    (b"NRRD", "an NRRD file", _CONVERT),
    (b"ObjectType", "a MetaImage file", _CONVERT),
)


class NiftiError(ValueError):
    """A NIfTI file breaks a rule; the caller knows which case it belongs to."""

    def __init__(self, rule: str, found: str, fix: str) -> None:
        super().__init__(f"{rule}, found {found}. {fix}")
        self.rule, self.found, self.fix = rule, found, fix


@dataclass(frozen=True)
class Volume:
    """A 3D volume as it is in its file.

    Attributes:
        data: Voxels ``(X, Y, Z)`` in the file's axis order, scaled by the header's slope.
        file_affine: The affine nibabel reports, voxel to mm; written back with predictions.
        affine: The affine in mm with the true voxel size, see :func:`true_affine`.
        scaling: The slope and the intercept of the header that are in ``data``.
    """

    data: np.ndarray
    file_affine: np.ndarray
    affine: np.ndarray
    scaling: tuple[float, float] = (1.0, 0.0)


def stem(path: Path) -> str:
    """Return the file name without ``.nii`` or ``.nii.gz``, in letters of any case."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    raise ValueError(f"A NIfTI file's name must end in .nii.gz or .nii, got {path.name}.")


def is_volume(path: Path) -> bool:
    """Return True if a name is that of a NIfTI file, and not hidden."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def find_nifti(folder: Path, name: str) -> Path | None:
    """Return ``folder/name.nii.gz``, else ``folder/name.nii``, else None; in letters of any case.

    The suffix alone may be in capitals.
    """
    for suffix in SUFFIXES:
        if is_there(path := folder / f"{name}{suffix}"):
            return path
    others = (path for path in sorted(folder.glob("*.[nN][iI][iI]*")) if is_volume(path))
    return next((path for path in others if stem(path) == name and is_there(path)), None)


def is_there(path: Path) -> bool:
    """Return True if a path is a file, or something else that reading it will name.

    That is a broken symlink, or a folder with a file's name that contains a file.
    """
    try:
        if path.is_dir():
            return is_volume(path) and any(is_volume(entry) for entry in path.iterdir())
        return path.is_file() or (path.is_symlink() and not path.exists())
    except PermissionError:
        return True


def true_affine(header: nib.Nifti1Header, affine: np.ndarray) -> np.ndarray:
    """Return the affine in mm whose voxel size is the true one.

    ``affine`` is what nibabel chose: the sform where it is coded. Some ACDC files have a sform of
    unit scale while ``pixdim`` and the qform give the voxel size; there the qform is taken, or the
    sform scaled to ``pixdim`` where the qform is not coded. A unit ``pixdim`` under a scaled sform
    is the opposite slip, and the sform is kept. Metres and microns become mm, as in ITK.

    Args:
        header: The file's header.
        affine: nibabel's affine ``(4, 4)``, in the header's unit.

    Returns:
        Affine ``(4, 4)`` in float64, voxel to mm.

    Raises:
        NiftiError: The voxel size is not positive and finite, the axes do not span the space, or
            sform and ``pixdim`` have different sizes and neither is 1.
    """
    unit = _unit(header)
    to_mm = np.diag([unit, unit, unit, 1.0])
    affine = to_mm @ affine
    size = voxel_sizes(affine)
    pixdim = unit * np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    _check_size("affine", size)
    _check_size("pixdim", pixdim)
    place = affine[:3, 3]
    if not np.isfinite(place).all() or abs(np.linalg.det(affine[:3, :3] / size)) < _FLAT:
        rows = "; ".join(" ".join(f"{value:.4g}" for value in row) for row in affine[:3])
        rule = "the header's affine must have a finite origin and axes in three directions"
        raise NiftiError(rule, rows, "Repair the header.")
    if np.allclose(size, pixdim, rtol=1e-2) or np.allclose(pixdim, unit, rtol=1e-3):
        return affine
    if np.allclose(size, unit, rtol=1e-3):
        if int(header["qform_code"]) > 0:
            return np.asarray(to_mm @ header.get_qform())
        scaled = affine.copy()
        scaled[:3, :3] *= pixdim / size
        return scaled
    raise NiftiError(
        "sform and pixdim must have the same voxel size, or one of them a size of 1",
        f"{_sizes(size)} and {_sizes(pixdim)}",
        "Repair the header: the true voxel size is unknown.",
    )


def oddities(path: Path, *, stacked: bool = False) -> list[str]:
    """Return notes on unusual but valid properties of a file's header."""
    image = _load(path)
    notes = []
    if (_stated_size(image, path) < 0).any():  # which nibabel hides
        notes.append("pixdim is negative; its absolute value is used.")
    if named := _UNITS.get(_unit_code(image.header)):
        notes.append(f"the header's unit is {named[0]}: lengths are converted to mm.")
    _, _, affine = _grid(image, path, stacked=stacked)
    if note := _skew(affine):
        notes.append(note)
    return notes


def _skew(affine: np.ndarray) -> str | None:
    """Return what to know of axes that are not at right angles, else None."""
    axes = affine[:3, :3] / voxel_sizes(affine)
    cosine = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if cosine <= _SKEW:
        return None
    stretch = np.linalg.svd(axes, compute_uv=False)  # of a distance, by its direction
    return (
        f"its axes are up to {math.degrees(math.asin(min(cosine, 1.0))):.2g} degrees off right "
        f"angles (a tilted gantry?). They are taken as orthogonal: distances in mm are off by up "
        f"to {100 * np.abs(stretch - 1).max():.2g} %, and ITK refuses such a file and its "
        "prediction. Resample image and label to orthogonal axes."
    )


def read_grid(
    path: Path, *, stacked: bool = False
) -> tuple[tuple[int, ...], np.ndarray, np.ndarray]:
    """Return shape, file affine and true affine of a 3D NIfTI file; reads the header alone.

    Axes of length 1 after the third do not count; a 2D file is a volume of one slice.

    Args:
        path: ``.nii`` or ``.nii.gz`` file.
        stacked: Whether the file has an axis of channels, its fourth.

    Raises:
        NiftiError: As :func:`read_volume`, as far as the header shows it.
    """
    return _guard(path, lambda: _grid(_load(path), path, stacked=stacked))


def read_volume(
    path: Path, *, dtype: type[np.floating] | None = None, stacked: bool = False
) -> Volume:
    """Read a 3D NIfTI file; what is packed is compared with its checksum.

    Axes of length 1 after the third are dropped, and a 2D file is a volume of one slice. Bytes
    after what is packed are not looked at.

    Args:
        path: ``.nii`` or ``.nii.gz`` file.
        dtype: Type of the voxels; None keeps the file's own (float where the header scales).
        stacked: Whether the file has an axis of channels, its fourth.

    Raises:
        NiftiError: The file is missing, damaged, no NIfTI file, not 3D, not numeric, or its
            header has no usable voxel size.
    """

    def read() -> Volume:
        image = _load(path)
        _, file_affine, affine = _grid(image, path, stacked=stacked)
        scaling = float(image.dataobj.slope), float(image.dataobj.inter)
        if not _is_packed(path):
            return Volume(_voxels(image, dtype), file_affine, affine, scaling)
        with gzip.open(path) as file:
            data = _voxels(type(image).from_stream(file), dtype)
            _read_on(file)
        return Volume(data, file_affine, affine, scaling)

    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is refused later
        return _guard(path, read)


def _load(path: Path) -> nib.Nifti1Image:
    image = nib.load(path)
    if not isinstance(image, nib.Nifti1Image):
        raise ImageFileError(f"it is a {type(image).__name__}")
    return image


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _read_on(file: gzip.GzipFile) -> None:
    """Read to the checksum at the end; bytes after the gzip stream are ignored."""
    try:
        while file.read(_PIECE):
            pass
    except gzip.BadGzipFile as error:
        if not str(error).startswith("Not a gzipped file"):
            raise


def _shape(image: nib.Nifti1Image) -> tuple[int, ...]:
    shape = tuple(image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return (*shape, 1) if len(shape) == 2 else shape


def _voxels(image: nib.Nifti1Image, dtype: type[np.floating] | None) -> np.ndarray:
    data = image.dataobj if dtype is None else image.get_fdata(dtype=dtype, caching="unchanged")
    return np.asarray(data).reshape(_shape(image))


def _grid(
    image: nib.Nifti1Image, path: Path, *, stacked: bool = False
) -> tuple[tuple[int, ...], np.ndarray, np.ndarray]:
    shape = _shape(image)
    if stacked and len(shape) != 4:
        raise NiftiError(
            "the file must have the channels on its fourth axis",
            f"{len(shape)}D, shape {shape}",
            "Stack the channels of a case in one file.",
        )
    if len(shape) != (4 if stacked else 3):
        raise NiftiError(
            "the volume must be 3D",
            f"{len(shape)}D, shape {shape}",
            "Store each time frame or modality in a separate file.",
        )
    if image.get_data_dtype().kind not in "iufb":
        raise NiftiError(
            "voxels must be real numbers", f"{image.get_data_dtype()}", "Convert the file."
        )
    if 0 in shape:
        rule, found = "the volume must have voxels", f"shape {shape}"
        raise NiftiError(rule, found, "Export it again.")
    first, header_end = image.dataobj.offset, type(image).header_class.single_vox_offset
    if first < header_end:
        rule = f"the header's vox_offset must be {header_end} or more"
        raise NiftiError(rule, f"{first}", "Repair the header, or export the volume again.")
    promised = math.prod(shape) * image.get_data_dtype().itemsize
    if promised > path.stat().st_size * (_INFLATION if _is_packed(path) else 1):
        raise ImageFileError(f"its header promises {promised} bytes of voxels")
    stated = _stated_size(image, path)[: len(image.shape)]  # a 2D file need not state the third
    _check_size("pixdim", _unit(image.header) * np.abs(stated))
    affine = np.asarray(image.affine, dtype=np.float64)
    true = true_affine(image.header, affine)
    size, (least, most) = voxel_sizes(true), _LENGTHS
    if not ((size >= least) & (size <= most)).all():
        rule = f"a voxel must be from {least:g} to {most:g} mm long"
        fix = "Repair the header: its unit or its voxel size is wrong."
        raise NiftiError(rule, _sizes(size), fix)
    return shape, affine, true


def _unit_code(header: nib.Nifti1Header) -> int:
    return int(header["xyzt_units"]) & 7  # the bits above are of time


def _unit(header: nib.Nifti1Header) -> float:
    """Return the header's unit of length in mm."""
    return _UNITS.get(_unit_code(header), ("mm", 1.0))[1]


def _stated_size(image: nib.Nifti1Image, path: Path) -> np.ndarray:
    """Return the voxel size as ``pixdim`` has it; nibabel makes 0 to 1 and drops the sign."""
    return np.asarray(_raw_header(type(image), path)["pixdim"][1:4], dtype=np.float64)


def _raw_header(kind: type[nib.Nifti1Image], path: Path) -> nib.Nifti1Header:
    """Return the header as it is in the file, where nibabel mends some of what it loads."""
    with gzip.open(path) if _is_packed(path) else path.open("rb") as file:
        return kind.header_class.from_fileobj(file, check=False)


def _check_size(name: str, size: np.ndarray) -> None:
    if not (np.isfinite(size).all() and (size > 0).all()):
        rule = f"the voxel size in the header's {name} must be positive and finite"
        raise NiftiError(rule, _sizes(size), "Repair the header.")


def _guard(path: Path, read: Callable[[], T]) -> T:
    if fault := access_fault(path):
        raise NiftiError(*fault)
    try:
        return read()
    except NiftiError:
        raise
    except MemoryError as error:
        raise NiftiError(
            "the volume must fit into memory",
            str(error) or "no room for it",
            "Free some memory, or take fewer threads (--data.init_args.prepare_workers).",
        ) from error
    except _UNREADABLE as error:
        text = str(error).replace(f'"{path}"', "it").replace(f"'{path}'", "it")
        text = text.replace(f"File {path}", "it").replace(str(path), "it")
        reason = " ".join(text.split()) or type(error).__name__
        fault = _quaternion_fault(path) or (
            "the file must be a complete NIfTI file",
            *(
                _other_kind(path)
                or (
                    f"{path.stat().st_size} bytes that do not read as one: {reason}",
                    _other_suffix(path) or "Download or unpack it again.",
                )
            ),
        )
        raise NiftiError(*fault) from error


def access_fault(path: Path) -> tuple[str, str, str] | None:
    """Return (rule, found, fix) of a path at which no file can be opened, else None."""
    denied = "the file must be readable", "no permission to read it", "Change its permissions."
    there = "the file must exist"
    try:
        regular = S_ISREG(path.stat().st_mode)
    except PermissionError:  # to look into its folder, or that of what it links to
        return denied
    except OSError:
        if path.is_symlink():
            fix = "Restore what it links to (in a dataset of git-annex: datalad get)."
            return there, "a link to nothing", fix
        regular = False
    if path.is_dir():
        contents = ", ".join(sorted(entry.name for entry in path.iterdir())[:3]) or "nothing"
        fix = "Move the file out of the folder, and remove the folder."
        return "the file must be a file", f"a folder of that name with {contents}", fix
    if not regular:
        return there, "no such file", "Restore it from the archive."
    return None if os.access(path, os.R_OK) else denied


def _quaternion_fault(path: Path) -> tuple[str, str, str] | None:
    """Return (rule, found, fix) of a NIfTI-1 file whose required qform is not a rotation."""
    try:
        header = _raw_header(nib.Nifti1Image, path)
        parts = [float(header[f"quatern_{axis}"]) for axis in "bcd"]
    except _UNREADABLE:
        return None
    if int(header["sizeof_hdr"]) != 348 or int(header["qform_code"]) <= 0:
        return None
    try:
        header.get_qform_quaternion()
    except ValueError:
        rule = "the quaternion of the qform must be of unit length where no sform has the true size"
        found = f"quatern_b, quatern_c and quatern_d of the length {math.hypot(*parts):.8g}"
        return rule, found, "Scale the three to the length 1, or store the affine as a sform too."
    return None


def _other_kind(path: Path) -> tuple[str, str] | None:
    """Return (found, fix) of a file that is something else than NIfTI, packed or not."""
    with path.open("rb") as file:
        begin = file.read(64)
    return next(((found, fix) for magic, found, fix in _OTHERS if begin.startswith(magic)), None)


def _other_suffix(path: Path) -> str | None:
    """Return the fix for a suffix that does not match the compression."""
    with path.open("rb") as file:
        begin = file.read(348)
    is_header = nib.Nifti1Image.header_class.may_contain_header(begin)
    if _is_packed(path) and is_header:
        return "It is not packed: rename it to .nii, or pack it (gzip)."
    if not _is_packed(path) and begin[:2] == b"\x1f\x8b":
        return "It is packed: rename it to .nii.gz, or unpack it (gunzip)."
    return None


def _sizes(values: np.ndarray) -> str:
    return " x ".join(f"{value:.4g}" for value in values) + " mm"
