"""Changes to a NIfTI file on disk: its bytes, its voxels, its place."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

DIM, PIXDIM, VOX_OFFSET, SROW = 40, 76, 108, 280  # places in the header of NIfTI-1


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
    """Write the file anew with changed voxels, and their type; the header stays."""
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
