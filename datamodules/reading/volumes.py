"""Reads images and labels of any format: NIfTI, or pictures without a header in mm."""

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from datamodules.case import Case
from datamodules.reading import nifti, pictures
from datamodules.reading.nifti import NiftiError, Volume
from mbls.data import PICTURE

SUFFIXES = (*nifti.SUFFIXES, *pictures.SUFFIXES)


def is_image(path: Path) -> bool:
    """Return True if a name is that of a NIfTI file or a picture, and not hidden."""
    return nifti.is_volume(path) or pictures.is_picture(path)


def stem(path: Path) -> str:
    """Return the file name without the suffix of its format."""
    return nifti.stem(path) if nifti.is_volume(path) else path.stem


def read_grid(
    path: Path, *, pixel_size: Sequence[float] = (1.0, 1.0), stacked: bool = False
) -> tuple[tuple[int, ...], np.ndarray, np.ndarray]:
    """Return shape ``(X, Y, Z)``, file affine and true affine; reads no voxels.

    Args:
        path: The image.
        pixel_size: Size of a pixel in mm, for pictures.
        stacked: Whether the last axis of a NIfTI file is that of the channels.

    Raises:
        NiftiError: The file is missing, damaged, or has no usable grid.
    """
    if pictures.is_picture(path):
        return pictures.picture_grid(path, pixel_size=pixel_size)
    shape, file_affine, affine = nifti.read_grid(path, stacked=stacked)
    return shape[:3], file_affine, affine


def case_grid(case: Case) -> tuple[tuple[int, ...], np.ndarray, np.ndarray]:
    """Return the grid of a case's first image, as :func:`read_grid` does."""
    return read_grid(case.images[0], pixel_size=case.pixel_size, stacked=case.stacked)


def source_header(case: Case) -> nib.Nifti1Header:
    """Return a NIfTI header with the shape and grid of a case's first image.

    That of a picture of one page has the description :data:`mbls.data.PICTURE`.
    """
    path = case.images[0]
    shape, affine, _ = case_grid(case)  # or its error
    if nifti.is_volume(path):
        return nib.load(path).header
    header = nib.Nifti1Image(np.broadcast_to(np.uint8(0), shape), affine).header
    if shape[2] == 1:
        header["descrip"] = PICTURE
    return header


def read_image(
    path: Path, *, pixel_size: Sequence[float] = (1.0, 1.0), stacked: bool = False
) -> Volume:
    """Read an image; its data are float32 ``(C, X, Y, Z)``.

    Args:
        path: The image.
        pixel_size: Size of a pixel in mm, for pictures.
        stacked: Whether the last axis of a NIfTI file is that of the channels.

    Raises:
        NiftiError: The file is missing or damaged, or has other axes.
    """
    if pictures.is_picture(path):
        volume = pictures.read_picture(path, pixel_size=pixel_size, dtype=np.float32)
    else:
        volume = nifti.read_volume(path, dtype=np.float32, stacked=stacked)
    data = volume.data[None] if volume.data.ndim == 3 else np.moveaxis(volume.data, -1, 0)
    return Volume(data, volume.file_affine, volume.affine, volume.scaling)


def read_label(
    path: Path, *, pixel_size: Sequence[float] = (1.0, 1.0), colors: bool = False
) -> Volume:
    """Read a label map ``(X, Y, Z)`` of integers; colors are ``65536 r + 256 g + b``.

    Args:
        path: The label file.
        pixel_size: Size of a pixel in mm, for pictures.
        colors: Whether labels are colors, see :func:`~datamodules.reading.pictures.read_mask`.

    Raises:
        NiftiError: As :func:`read_image`.
    """
    if pictures.is_picture(path):
        return pictures.read_mask(path, pixel_size=pixel_size, colors=colors)
    return nifti.read_volume(path)


def count_channels(path: Path, *, stacked: bool = False) -> int:
    """Return the number of channels in a file; reads no voxels.

    Raises:
        NiftiError: As :func:`read_grid`.
    """
    if pictures.is_picture(path):
        return pictures.channels_in(path)
    shape = nifti.read_grid(path, stacked=stacked)[0]
    return shape[3] if len(shape) > 3 else 1


__all__ = [
    "SUFFIXES",
    "NiftiError",
    "Volume",
    "case_grid",
    "count_channels",
    "is_image",
    "read_grid",
    "read_image",
    "read_label",
    "source_header",
    "stem",
]
