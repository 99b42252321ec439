"""Probability maps as files: their headers, reading, and writing in the same form.

A map is one ``.npz``, one NIfTI with an axis of classes, or one NIfTI a class. No pickle is opened.
"""

import gzip
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from mbls.predictions.grids import corners_apart, same_place
from mbls.runtime.errors import PredictionError
from mbls.runtime.files import replacing

__all__ = ["Stored", "inspect", "load_map", "reading", "save_map", "save_nifti"]

Kind = Literal["npz", "nifti", "nifti-per-class"]
KEYS = ("probabilities", "softmax", "probs", "arr_0")
"""Names of the array in an ``.npz``: nnU-Net v2's, v1's, and others'; else the only array."""

_CHUNK = 1 << 24  # bytes decompressed at a time
BROKEN = (
    *(OSError, EOFError, ValueError, KeyError, zlib.error, zipfile.BadZipFile),
    *(ImageFileError, HeaderDataError, WrapStructError),
)


@dataclass(frozen=True)
class Stored:
    """A probability map on disk.

    Attributes:
        kind: ``"npz"``, ``"nifti"`` or ``"nifti-per-class"``.
        paths: The file, or one for each class.
        shape: Shape of the array, with the axis of channels; first with one file a class.
        dtype: Type of the stored numbers.
        step: Distance of neighboring numbers where they are integers, the largest of several
            files; 0 for floats.
        key: Name of the array in an ``.npz``.
        affine: Affine ``(4, 4)`` of a NIfTI file.
    """

    kind: Kind
    paths: tuple[Path, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    step: float = 0.0
    key: str = ""
    affine: np.ndarray | None = None

    @property
    def name(self) -> str:
        """The file, for messages."""
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return f"{self.paths[0]}{more}"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors of a damaged file into a PredictionError that names it.

    Raises:
        PredictionError: The file is damaged or of another kind.
    """
    try:
        yield
    except PredictionError:
        raise
    except BROKEN as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PredictionError(
            f"{path} cannot be read: it is truncated, damaged or of another kind ({reason}). "
            "Export or copy it again."
        ) from error


def inspect(kind: Kind, paths: Sequence[Path]) -> Stored:
    """Return a map's shape and type from its header.

    Raises:
        PredictionError: A file is damaged, has a pickle or several arrays, the files of the classes
            have different shapes or places, or the numbers are neither floats nor quantized.
    """
    with reading(paths[0]):
        found = _npz_header(paths[0]) if kind == "npz" else _nifti_header(paths[0])
    if kind == "nifti-per-class":
        steps = [found.step]
        for path in paths[1:]:
            with reading(path):
                other = _nifti_header(path)
            if (other.shape, other.dtype) != (found.shape, found.dtype):
                raise PredictionError(
                    f"{path} is {other.dtype} {other.shape}, and {paths[0]} {found.dtype} "
                    f"{found.shape}: the files of a case's classes must be alike. Export the case "
                    "again."
                )
            _require_same_place(found, other)
            steps.append(other.step)
        # where one file has no step, its integers are no probabilities
        step, shape = max(steps) if all(steps) else 0.0, (len(paths), *found.shape)
        found = Stored(kind, tuple(paths), shape, found.dtype, step, affine=found.affine)
    known = found.dtype.kind == "f" and found.dtype.itemsize in (2, 4, 8)
    if not known and not found.step:
        raise PredictionError(
            f"{found.name} has numbers of type {found.dtype}. Probabilities must be float16, "
            "float32 or float64, uint8 (0 to 255), or integers with a scale in the NIfTI header: "
            "a label map has no probabilities. Export them (nnU-Net: --npz or "
            "--save_probabilities)."
        )
    return found


def _require_same_place(first: Stored, other: Stored) -> None:
    assert first.affine is not None
    assert other.affine is not None
    shape = (*first.shape, 1)[:3]
    if not same_place(shape, other.affine, first.affine):
        distance = corners_apart(shape, other.affine, first.affine)
        raise PredictionError(
            f"{other.paths[0]} is not on the grid of {first.paths[0]}: the affines put a corner of "
            f"the volume {distance:.4g} mm apart. Export the case's classes on one grid."
        )


def _npz_header(path: Path) -> Stored:
    with zipfile.ZipFile(path) as archive:
        names = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
        key = next((key for key in KEYS if key in names), names[0] if len(names) == 1 else None)
        if key is None:
            raise PredictionError(
                f"{path} has the arrays {', '.join(names) or 'none'}, so which one has the "
                f"probabilities? Name it {' or '.join(KEYS[:3])}, or save it alone."
            )
        with archive.open(f"{key}.npy") as file:
            version = np.lib.format.read_magic(file)
            read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
                version, np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read(file)
    if dtype.hasobject:
        raise PredictionError(
            f"{path} has Python objects (a pickle), which are never opened: they can run code. "
            "Save the probabilities as an array of floats."
        )
    return Stored("npz", (path,), tuple(shape), dtype, _step(dtype), key)


def _nifti_header(path: Path) -> Stored:
    image: Any = nib.load(path)
    slope, offset = image.dataobj.slope, image.dataobj.inter  # those of the header are reset
    dtype, shape = image.get_data_dtype(), tuple(image.shape)
    if len(shape) == 5 and shape[3] == 1:  # a vector, as ITK writes it
        shape = (*shape[:3], shape[4])
    scaled = dtype.kind in "iu" and slope != 1 and not offset
    step = abs(float(slope)) if scaled else _step(dtype)
    return Stored("nifti", (path,), shape, dtype, step, affine=image.affine)


def _step(dtype: np.dtype[Any]) -> float:
    return 1 / 255 if dtype == np.uint8 else 0.0


def load_map(stored: Stored) -> np.ndarray:
    """Return a map as stored, ``stored.shape``, float32 or float64.

    float16 and integers become float32, uint8 without a scale of its own divided by 255.

    Raises:
        PredictionError: A file is damaged.
    """
    with reading(stored.paths[0]):
        if stored.kind == "npz":
            with np.load(stored.paths[0], allow_pickle=False) as archive:
                return _floats(archive[stored.key])
        if stored.kind == "nifti":
            return _voxels(stored.paths[0]).reshape(stored.shape, order="F")
    # one after the other into the memory of the whole, in the order of a NIfTI file
    wide = np.float64 if stored.dtype == np.float64 else np.float32
    whole = np.empty((len(stored.paths), *stored.shape[:0:-1]), wide)
    for row, path in zip(whole, stored.paths, strict=True):
        with reading(path):
            row[:] = _voxels(path).transpose()
    return whole.transpose(0, *range(whole.ndim - 1, 0, -1))


def _voxels(path: Path) -> np.ndarray:
    image: Any = nib.load(path)
    slope, offset = image.dataobj.slope, image.dataobj.inter  # those of the header are reset
    if slope == 1 and not offset:
        whole = _decompressed(image) if path.suffix == ".gz" else np.asanyarray(image.dataobj)
        return _floats(whole)
    wide = np.float64 if image.get_data_dtype() == np.float64 else np.float32
    scaled: np.ndarray = np.asarray(image.dataobj, dtype=wide)
    return scaled


def _decompressed(image: Any) -> np.ndarray:
    """Return the unscaled voxels of a compressed file; nibabel needs twice their memory."""
    proxy = image.dataobj
    array = np.empty(proxy.shape, proxy.dtype, order="F")
    into = array.reshape(-1, order="F").view(np.uint8).data
    with ImageOpener(proxy.file_like) as file:
        file.seek(proxy.offset)
        for start in range(0, len(into), _CHUNK):
            part = into[start : start + _CHUNK]
            if file.readinto(part) < len(part):
                raise EOFError(f"it ends within the voxels, after {start} bytes")
    return array


def _floats(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array.astype(np.float32) / np.float32(255)
    wide = np.float64 if array.dtype.kind == "f" and array.dtype.itemsize == 8 else np.float32
    return array.astype(wide, copy=False)


def save_map(stored: Stored, paths: Sequence[Path], array: np.ndarray) -> None:
    """Write an array in the form of ``stored``, with its key, affine and header, as float32.

    float64 stays float64; maps that were quantized are float32, which is what was calculated.

    Args:
        stored: The map whose form is taken.
        paths: The files to write, as many as ``stored`` has.
        array: Probabilities of ``stored.shape``.

    Raises:
        OutputError: A file cannot be written.
        ValueError: The shape differs.
    """
    if array.shape != stored.shape:
        raise ValueError(f"array must be {stored.shape} like the file read, got {array.shape}.")
    wide = np.float64 if stored.dtype == np.float64 else np.float32
    if stored.kind == "npz":
        with replacing(paths[0]) as file:
            content: dict[str, Any] = {stored.key: array.astype(wide, copy=False)}
            np.savez_compressed(file, **content)
        return
    parts = [array] if stored.kind == "nifti" else list(array)
    for path, source, part in zip(paths, stored.paths, parts, strict=True):
        image: Any = nib.load(source)
        if math.prod(image.shape) == part.size:
            part = part.reshape(image.shape, order="F")
        save_nifti(path, part.astype(wide, copy=False), image)


def save_nifti(path: Path, array: np.ndarray, like: Any) -> None:
    """Write a NIfTI file, compressed if it ends in ``.gz``, with affine and header of another.

    Args:
        path: The file.
        array: The voxels, written in their own type without a scale.
        like: The image whose geometry is taken.

    Raises:
        OutputError: The file cannot be written.
    """
    header = nib.Nifti1Header.from_header(like.header, check=False)
    header.set_data_dtype(array.dtype)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["cal_max"] = header["cal_min"] = 0
    image = nib.Nifti1Image(array, None, header)
    image.header.set_data_shape(array.shape)
    with replacing(path) as file:
        if path.suffix != ".gz":
            image.to_stream(file)
            return
        with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
            image.to_stream(packed)
