"""Arrays of an ``.npz`` file that somebody else may have written: no pickle, and no endless zip."""

import math
import zipfile
from pathlib import Path

import numpy as np

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,
}
__all__ = ["MOST_BYTES", "load_arrays"]

MOST_BYTES = 2 << 30
"""Of all arrays, unpacked: 2 GiB. A test of 1000 cases, 105 classes and five regions has 0.8."""


def load_arrays(path: Path, *, most: int = MOST_BYTES) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file by name.

    Their sizes are looked at before anything is unpacked: a zip of a megabyte can hold terabytes,
    and the shape in an array's header can ask for as much.

    Args:
        path: The file.
        most: Bytes that they may take together.

    Raises:
        ValueError: They take more, one holds Python objects, or is not of the size of its shape.
        zipfile.BadZipFile: It is no such file.
    """
    with zipfile.ZipFile(path) as file:  # no member is read beyond the size that it states
        members = file.infolist()
        size = sum(member.file_size for member in members)
        if size > most:
            raise ValueError(
                f"{path.name} unpacks to {size / 1e9:.3g} GB, at most {most / 1e9:.3g} are read (a "
                "zip bomb?)"
            )
        for member in (each for each in members if each.filename.endswith(".npy")):
            with file.open(member) as stream:
                shape, _, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
                stated = stream.tell() + math.prod(shape) * dtype.itemsize
            if stated != member.file_size and not dtype.hasobject:
                raise ValueError(
                    f"{path.name}: {member.filename} must have {stated} bytes by the shape in its "
                    f"header, {shape}, got {member.file_size}; it is damaged or no array."
                )
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
