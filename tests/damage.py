"""Damages files as a faulty disk does."""

from pathlib import Path
from zipfile import ZipFile


def flip_bit(path: Path) -> None:
    """Flip a bit in the middle of the largest record of a checkpoint, one of its weights."""
    with ZipFile(path) as file:
        content = file.read(max(file.infolist(), key=lambda record: record.file_size))
    raw = bytearray(path.read_bytes())
    raw[raw.index(content) + len(content) // 2] ^= 64
    path.write_bytes(raw)
