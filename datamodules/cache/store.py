"""The cache on disk: one folder per case, memory-mapped arrays, atomic writes."""

import contextlib
import errno
import hashlib
import json
import math
import mmap
import os
import shutil
import time
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from datamodules.cache.leftovers import clear_leftovers
from datamodules.case import Case, DataError, Problem

_DAY = 86400.0  # seconds
_READ = os.O_RDONLY | os.O_CLOEXEC
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)  # of a damaged record
_DTYPES = {  # of each array; a record may be anybody's, and numpy maps objects from any bytes
    "image": ("<f2", "<f4"),
    "label": ("|u1",),
    "posterior": ("<u2",),
    "readers": ("|u1",),
    "slices": ("|b1",),
    "places": ("<u2",),
}
_WAY_OUT = "choose another folder with --data.init_args.cache_dir (make: CACHE=...)."


@dataclass(frozen=True)
class StoredArray:
    """An array in a ``.npy`` file, with what is needed to map it without parsing its header."""

    path: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    crc: int | None = None  # of its bytes; a cache of an earlier commit has none

    def open(self, *, private: bool = False) -> np.ndarray:
        """Map the array into memory: indexing reads only the indexed bytes.

        Args:
            private: If True, the array is writable (copy-on-write), as torch requires;
                what is written stays in this process and never reaches the file. Otherwise the
                array is read-only.
        """
        access = mmap.ACCESS_COPY if private else mmap.ACCESS_READ
        file = os.open(self.path, _READ)  # np.memmap takes ten times as long
        try:
            mapped = mmap.mmap(file, 0, access=access)
        finally:
            os.close(file)
        return np.ndarray(self.shape, self.dtype, mapped, self.offset)

    def read(self, row: int, into: np.ndarray) -> None:
        """Read ``array[row]``, without mapping it: a third less time for a slice of one use.

        Args:
            row: Index on the first axis.
            into: Contiguous memory of the row's shape and type.

        Raises:
            OSError: The file is shorter than the array.
        """
        file = os.open(self.path, _READ)
        try:
            found = os.preadv(file, (into.data,), self.offset + row * into.nbytes)
        finally:
            os.close(file)
        if found != into.nbytes:
            raise OSError("an end within its array")

    def is_whole(self) -> bool:
        """Return True if the file is there with as many bytes as the array needs."""
        size = math.prod(self.shape) * np.dtype(self.dtype).itemsize
        try:
            return Path(self.path).stat().st_size == self.offset + size
        except OSError:
            return False

    def is_sound(self) -> bool:
        """Return True if the bytes are those that were written; reads all, about 2 GB a second."""
        if not self.is_whole():
            return False
        return self.crc in (None, zlib.crc32(_bytes_of(self.open())))


@dataclass(frozen=True)
class CachedCase:
    """A case in the cache.

    Attributes:
        id: The case's name.
        arrays: ``image``, ``label``, ``posterior`` and ``readers`` ``(R, X, Y, Z)`` (see
            :meth:`volume`), ``slices`` ``(C, Z)``, which class is in which slice, and ``places``,
            sampled voxels of each class (:mod:`datamodules.cache.foreground`).
        facts: JSON values: ``spacing`` in mm, ``content`` (a hash of the source files'
            bytes), ``planar`` (True if slices come first on disk), ``box`` (the crop of the
            native grid, or None) and ``places`` (how many of ``places`` each class has).
    """

    id: str
    arrays: dict[str, StoredArray]
    facts: dict[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """The volume's shape ``(X, Y, Z)``."""
        stored = self.arrays["label"].shape
        return (*stored[1:], stored[0]) if self.facts["planar"] else stored

    @property
    def num_readers(self) -> int:
        """Number of readers who labeled the case."""
        if "readers" not in self.arrays:
            return 1
        return self.arrays["readers"].shape[1 if self.facts["planar"] else 0]

    def damaged(self) -> list[str]:
        """Return the names of the files whose bytes are not those that were written.

        Files that were verified within a day and have not changed since are not read.
        """
        files = [Path(array.path) for array in self.arrays.values()]
        stamp = files[0].with_name("verified")  # its time is that of the last verification
        if _is_verified(stamp, files):
            return []
        found = [Path(array.path).name for array in self.arrays.values() if not array.is_sound()]
        if not found:
            with contextlib.suppress(OSError):  # the cache may be on a read-only disk
                stamp.touch()
        return found

    def volume(self, name: str, *, private: bool = False) -> np.ndarray:
        """Map ``image`` ``(M, X, Y, Z)``, ``label`` ``(X, Y, Z)``, ... as a view.

        For 2D networks slices come first on disk, so a slice is contiguous;
        a volume for 3D patches is stored as it is here, and a patch is runs along the last axis.
        ``private`` is that of :meth:`StoredArray.open`.

        Raises:
            DataError: The file has been changed from outside.
        """
        try:
            array = self.arrays[name].open(private=private)
        except (OSError, ValueError, TypeError) as error:  # not there, empty, too short
            raise self._changed(name, error) from error
        if not self.facts["planar"]:
            return array
        return array.transpose(*range(1, array.ndim), 0)

    def plane(self, name: str, z: int) -> np.ndarray:
        """Read one slice of :meth:`volume`: ``(M, X, Y)`` or ``(X, Y)``.

        It may be written to.

        Raises:
            DataError: The file has been changed from outside.
        """
        stored = self.arrays[name]
        if not self.facts["planar"]:
            return self.volume(name, private=True)[..., z]
        into = np.empty(stored.shape[1:], stored.dtype)
        try:
            stored.read(z, into)
        except OSError as error:
            raise self._changed(name, error) from error
        return into

    def _changed(self, name: str, error: Exception) -> DataError:
        path, found = self.arrays[name].path, getattr(error, "strerror", None) or str(error)
        rule, fix = "a file of the cache must stay as it was written", "Start again with RESUME=1"
        return DataError(
            [Problem(self.id, path, rule, found, f"{fix} (--resume): what is damaged is mended.")]
        )


def _is_verified(stamp: Path, files: Sequence[Path]) -> bool:
    """Return True if the stamp is younger than the files and than a day.

    A disk that fails changes bytes and no time.
    """
    try:
        verified = stamp.stat().st_mtime
        return time.time() - verified < _DAY and all(f.stat().st_ctime < verified for f in files)
    except OSError:
        return False


def source_key(case: Case) -> str:
    """Return a hash of the path, size and modification time of the files a case is read from.

    That of pictures depends on ``pixel_size``, too, which their files do not say.
    """
    stats = [(path.stat(), str(path.resolve())) for path in case.sources]  # OSError comes first
    sources: list[Any] = [[path, stat.st_size, stat.st_mtime_ns] for stat, path in stats]
    if case.readers:  # a cache of an earlier commit has the first reader's label alone
        sources.append("readers")
    size = [float(length) for length in case.pixel_size]
    return _digest(sources if size == [1.0, 1.0] else [*sources, size])


def content_key(case: Case) -> str:
    """Return a hash of the bytes of the files a case is read from, wherever they are."""
    digest = hashlib.sha256()
    for path in case.sources:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


class Cache:
    """The cached cases of one dataset under one choice of settings.

    Any number of jobs may use a cache at once: a case is written into a folder of its own name
    and renamed when it is complete, so it is there whole or not at all. Two jobs that write the
    same case do the work twice and keep one result.

    Args:
        folder: The folder of all caches.
        name: The dataset's name.
        settings: All settings that decide the arrays' numbers.
    """

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        self.root = folder
        self.folder = folder / f"{name}-{_digest(settings)[:12]}"
        self._settings = dict(settings)

    def find(self, case: Case) -> CachedCase | None:
        """Return the cached case; None if it is not there, not whole, or its files changed."""
        try:
            return self._load(self._place(case))
        except _UNREADABLE:
            return None

    def damaged(self, case: Case) -> list[str]:
        """Return the names of the case's files that are not as they were written.

        There are none where the case is not in the cache.
        """
        try:
            place = self._place(case)
        except OSError:  # a source is not there, which reading will name
            return []
        if not place.is_dir():
            return []
        try:
            return self._read(place).damaged()
        except _UNREADABLE:
            return ["case.json"]

    def open_for_writing(self) -> None:
        """Create the folder, and remove temporary files of killed jobs.

        Raises:
            DataError: The folder cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / f".probe-{uuid.uuid4().hex}"
            probe.write_text(json.dumps(self._settings, indent=2, sort_keys=True))
            probe.replace(self.folder / "settings.json")
        except OSError as error:
            raise self._unwritable(error) from error
        clear_leftovers(self.folder, ".*.tmp")

    def write(
        self, case: Case, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]
    ) -> CachedCase:
        """Store a case.

        Raises:
            DataError: No room, or no permission. What was written of the case is removed.
        """
        place = self._place(case)
        draft = self.folder / f".{uuid.uuid4().hex}.tmp"
        try:
            draft.mkdir()
            stored = {name: _write_array(draft / f"{name}.npy", a) for name, a in arrays.items()}
            record = {"id": case.id, "arrays": stored, "facts": dict(facts)}
            record["digest"] = _digest(record)
            with (draft / "case.json").open("wb") as file:
                file.write(json.dumps(record, indent=1).encode())
                _flush(file)
            if self.damaged(case):  # from outside: an atomic write never leaves this
                _mend(place, draft)
            else:
                _install(place, draft)
            return self._load(place)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise self._unwritable(error, case.id) from error
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise

    def _place(self, case: Case) -> Path:
        return self.folder / f"{case.id}-{source_key(case)[:12]}"

    def _load(self, place: Path) -> CachedCase:
        found = self._read(place)
        if not all(array.is_whole() for array in found.arrays.values()):
            raise ValueError(f"{place} is damaged.")
        return found

    def _read(self, place: Path) -> CachedCase:
        record = json.loads((place / "case.json").read_text())
        arrays = {
            name: _stored(place, name, dtype, *rest)
            for name, (dtype, *rest) in record["arrays"].items()
        }
        digest = record.pop("digest", None)
        if digest is not None and digest != _digest(record):
            raise ValueError(f"{place} is damaged.")
        return CachedCase(record["id"], arrays, record["facts"])

    def _unwritable(self, error: OSError, case: str = "") -> DataError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            rule, fix = "the cache needs room on its disk", f"Free some room, or {_WAY_OUT}"
        else:
            rule, fix = "the cache folder must be writable", f"Give permission, or {_WAY_OUT}"
        found = error.strerror or str(error)
        return DataError([Problem(case, str(self.folder), rule, found, fix)])


def _stored(
    place: Path, name: str, dtype: str, shape: Sequence[int], offset: int, crc: int | None = None
) -> StoredArray:
    """Return an array of a record; raises ValueError if it is none that :class:`Cache` writes."""
    if dtype not in _DTYPES.get(name, ()):
        raise ValueError(f"{place}: array {name!r} must be a plain array, got type {dtype!r}.")
    if not all(isinstance(n, int) and n >= 0 for n in (*shape, offset)):
        raise ValueError(f"{place} holds {name} of shape {shape} from byte {offset} on.")
    return StoredArray(str(place / f"{name}.npy"), dtype, tuple(shape), offset, crc)


def _install(place: Path, draft: Path) -> None:
    """Give a complete case its name, unless another job was faster."""
    try:
        draft.rename(place)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        shutil.rmtree(draft, ignore_errors=True)


def _mend(place: Path, draft: Path) -> None:
    """Replace the files of a damaged case one by one, the record last.

    The case never goes away under those who read it: whoever opens a file finds the old one or the
    new, and whoever has it open or mapped keeps the old. Jobs that mend it at once write the same.
    """
    for file in sorted(draft.iterdir(), key=lambda file: (file.suffix == ".json", file)):
        file.replace(place / file.name)
    draft.rmdir()


def _write_array(path: Path, array: np.ndarray) -> tuple[str, tuple[int, ...], int, int]:
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, header)
        offset = file.tell()
        content = _bytes_of(array)
        file.write(content)  # np.save would hide the reason of a failure
        _flush(file)
    return array.dtype.str, array.shape, offset, zlib.crc32(content)


def _bytes_of(array: np.ndarray) -> memoryview:
    """Return the bytes of a contiguous array, which may have none: no structure, no place of it."""
    return array.reshape(-1).view(np.uint8).data


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
