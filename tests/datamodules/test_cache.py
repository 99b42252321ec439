"""The cache: whole or not at all, safe for several jobs, re-read when a source changes."""

import errno
import json
import mmap
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from datamodules import Case, DataError
from datamodules.cache import store as cache_module
from datamodules.cache.store import Cache, content_key, source_key
from datamodules.case import Problem
from tests.datamodules.conftest import blobs, save


@pytest.fixture
def case(tmp_path: Path) -> Case:
    image, label = blobs(0)
    folder = tmp_path / "source"
    folder.mkdir()
    image_path, label_path = save(folder / "a.nii.gz", image), save(folder / "a_gt.nii.gz", label)
    return Case("a", "a", (image_path,), label_path)


def build(tmp_path: Path, **settings: object) -> Cache:
    cache = Cache(tmp_path / "cache", "acdc", settings)
    cache.open_for_writing()
    return cache


ARRAYS = {
    "image": np.arange(60, dtype=np.float16).reshape(5, 1, 3, 4),
    "label": np.arange(60, dtype=np.uint8).reshape(5, 3, 4),
}


def test_round_trip(tmp_path: Path, case: Case) -> None:
    cache = build(tmp_path)
    assert cache.find(case) is None
    written = cache.write(case, ARRAYS, {"spacing": (1.0, 2.0, 3.0)})
    found = cache.find(case)
    assert found == written
    assert found is not None
    assert found.facts == {"spacing": [1.0, 2.0, 3.0]}
    for name, array in ARRAYS.items():
        opened = found.arrays[name].open()
        np.testing.assert_array_equal(opened, array)
        assert opened.dtype == array.dtype
        assert isinstance(opened.base, mmap.mmap)
        assert not opened.flags.writeable
        np.testing.assert_array_equal(np.load(found.arrays[name].path, allow_pickle=False), array)


def test_a_slice_is_one_run_of_bytes(tmp_path: Path, case: Case) -> None:
    found = build(tmp_path).write(case, ARRAYS, {})
    image = found.arrays["image"].open()
    assert image[2].flags.c_contiguous
    assert image[2].base is not None  # a view: nothing was read yet


def test_settings_have_folders_of_their_own(tmp_path: Path) -> None:
    assert build(tmp_path, spacing=None).folder != build(tmp_path, spacing=[1.0, 1.0]).folder
    assert build(tmp_path, spacing=None).folder == build(tmp_path, spacing=None).folder


def test_changed_source_is_read_again(tmp_path: Path, case: Case) -> None:
    cache = build(tmp_path)
    cache.write(case, ARRAYS, {})
    before = source_key(case), content_key(case)
    save(case.images[0], blobs(1)[0])
    assert source_key(case) != before[0]
    assert content_key(case) != before[1]
    assert cache.find(case) is None
    cache.write(case, ARRAYS, {})
    assert cache.find(case) is not None


def test_touched_source_keeps_its_content(case: Case) -> None:
    before = source_key(case), content_key(case)
    os.utime(case.images[0], ns=(1, 1))
    assert source_key(case) != before[0]
    assert content_key(case) == before[1]


@pytest.mark.parametrize("victim", ["image.npy", "label.npy", "case.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_damaged_case_is_not_used(tmp_path: Path, case: Case, victim: str, damage: str) -> None:
    cache = build(tmp_path)
    cache.write(case, ARRAYS, {})
    (path,) = cache.folder.glob(f"a-*/{victim}")
    if damage == "gone":
        path.unlink()
    elif damage == "other":
        path.write_text("[1]")  # sound JSON, and no record
    else:
        path.write_bytes(path.read_bytes()[:-10])
    assert cache.find(case) is None
    assert cache.damaged(case) == [victim]
    cache.write(case, ARRAYS, {})
    assert cache.find(case) is not None
    assert not list(cache.folder.glob(".*"))


def test_two_jobs_that_repair_a_case_keep_one_result(
    tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second finds the damage too, and the first has repaired it before it acts."""
    first, second = build(tmp_path), build(tmp_path)
    first.write(case, ARRAYS, {})
    (path,) = first.folder.glob("a-*/label.npy")
    path.write_bytes(b"")
    damaged = second.damaged

    def late(case: Case) -> list[str]:
        found = damaged(case)
        first.write(case, ARRAYS, {})
        return found

    monkeypatch.setattr(second, "damaged", late)
    assert second.write(case, ARRAYS, {}).damaged() == []
    assert second.find(case) is not None
    assert not list(first.folder.glob(".*"))


def test_a_case_is_repaired_while_others_read_it(
    tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = build(tmp_path)
    reader = cache.write(case, ARRAYS, {"planar": True})
    mapped = reader.arrays["label"].open()
    label = Path(reader.arrays["label"].path)
    label.write_bytes(label.read_bytes()[:-1] + b"\xff")
    replace, steps = Path.replace, []

    def watched(file: Path, target: Path) -> Path:
        found = replace(file, target)
        steps.append(target.name)
        assert reader.plane("label", 4)[-1, -1] == (0xFF if steps == ["image.npy"] else 59)
        np.testing.assert_array_equal(reader.plane("image", 0), ARRAYS["image"][0])
        return found

    monkeypatch.setattr(Path, "replace", watched)
    cache.write(case, ARRAYS, {"planar": True})
    assert steps == ["image.npy", "label.npy", "case.json"]
    assert reader.damaged() == []
    assert mapped[-1, -1, -1] == 0xFF  # mapped pages do not change: no torn reads, no crash


def test_a_verified_case_is_not_read_again_within_a_day(
    tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = build(tmp_path).write(case, ARRAYS, {})
    label = Path(written.arrays["label"].path)
    stamp = label.with_name("verified")
    read: list[str] = []
    is_sound = cache_module.StoredArray.is_sound

    def noted(array: cache_module.StoredArray) -> bool:
        read.append(Path(array.path).name)
        return is_sound(array)

    def reads(seconds_ago: float) -> bool:
        if stamp.exists():
            os.utime(stamp, (time.time() - seconds_ago,) * 2)
        read.clear()
        assert written.damaged() == []
        return read == ["image.npy", "label.npy"]

    monkeypatch.setattr(cache_module.StoredArray, "is_sound", noted)
    assert reads(0)
    assert not reads(-1)
    assert reads(100_000)
    time.sleep(0.02)
    os.utime(label, (1, 1))  # the time of its change is still now
    assert reads(0.01)


def test_interrupted_write_leaves_nothing(tmp_path: Path, case: Case, monkeypatch) -> None:
    def interrupt(file: object) -> None:
        raise KeyboardInterrupt

    cache = build(tmp_path)
    monkeypatch.setattr(cache_module, "_flush", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.write(case, ARRAYS, {})
    assert [path.name for path in cache.folder.iterdir()] == ["settings.json"]


def test_drafts_of_dead_jobs_are_cleared(tmp_path: Path) -> None:
    cache = build(tmp_path)
    for name, age in ((".old.tmp", 7200), (".new.tmp", 0)):
        (cache.folder / name).mkdir()
        time = (cache.folder / name).stat().st_mtime - age
        os.utime(cache.folder / name, (time, time))
    cache.open_for_writing()
    assert sorted(path.name for path in cache.folder.glob(".*.tmp")) == [".new.tmp"]


@pytest.mark.parametrize(
    ("code", "match"),
    [
        (errno.ENOSPC, "needs room on its disk, found No space left.*Free some room"),
        (errno.EDQUOT, "needs room on its disk"),
        (errno.EACCES, "must be writable, found Permission denied"),
    ],
)
def test_disk_errors(module, monkeypatch, code: int, match: str) -> None:
    """The third write fails: the message names folder and way out, the first two cases are kept."""
    flush, calls = cache_module._flush, iter(range(10**6))

    def fail(file) -> None:
        if next(calls) >= 2 * 5:  # five files a case
            raise OSError(code, os.strerror(code))
        flush(file)

    monkeypatch.setattr(cache_module, "_flush", fail)
    built = module(prepare_workers=1)
    with pytest.raises(DataError, match=match) as error:
        built.prepare(progress=False)
    assert str(built.preparer.cache.folder) in str(error.value)
    assert "--data.init_args.cache_dir (make: CACHE=...)" in str(error.value)
    assert not list(built.preparer.cache.folder.glob(".*.tmp"))
    assert len(list(built.preparer.cache.folder.glob("patient*"))) == 2
    monkeypatch.setattr(cache_module, "_flush", flush)
    built.prepare(progress=False)
    assert len(list(built.preparer.cache.folder.glob("patient*"))) == 20


def test_cache_folder_that_cannot_be_made(module, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    built = module(cache_dir=tmp_path / "file" / "cache")
    with pytest.raises(DataError, match="cache folder must be writable, found Not a directory"):
        built.prepare(progress=False)
    (found,) = built.check(progress=False)
    assert "cache folder must be writable" in str(found)


def test_a_full_cache_is_not_written_to(module, monkeypatch) -> None:
    """It may lie on a disk that is read-only."""

    def refuse(cache: Cache) -> None:
        pytest.fail("opened for writing")

    module().prepare(progress=False)
    monkeypatch.setattr(Cache, "open_for_writing", refuse)
    module().prepare(progress=False)
    assert module().check(progress=False) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(module, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(DataError, match="must be writable, found Permission denied"):
        module(cache_dir=tmp_path / "locked" / "cache").prepare(progress=False)


def test_two_jobs_at_once(module) -> None:
    barrier = threading.Barrier(2)

    def fill(_: int) -> None:
        built = module()
        barrier.wait(10)
        built.prepare(progress=False)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(fill, range(2)))
    folder = module().preparer.cache.folder
    assert len(list(folder.glob("patient*"))) == 20
    assert not list(folder.glob(".*"))
    module().setup("fit")  # raises if a case is not whole


def test_an_array_that_changed_since_it_was_written_is_named(tmp_path: Path, case: Case) -> None:
    cache = build(tmp_path)
    written = cache.write(case, ARRAYS, {"spacing": (1.0, 2.0, 3.0)})
    assert written.damaged() == []
    label = Path(written.arrays["label"].path)
    content = bytearray(label.read_bytes())
    content[-1] ^= 1
    label.write_bytes(content)
    found = cache.find(case)  # it checks sizes only
    assert found is not None
    assert found.damaged() == ["label.npy"]
    assert cache.write(case, ARRAYS, {"spacing": (1.0, 2.0, 3.0)}).damaged() == []
    record = label.with_name("case.json")
    record.write_text(record.read_text().replace("2.0", "3.0"))
    assert cache.find(case) is None


class Broken:
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise DataError([Problem("a", "a.nii.gz", "it must read", "text", "Take another.")])


def test_a_problem_in_a_data_process_keeps_its_message() -> None:
    with pytest.raises(DataError) as error:
        list(DataLoader(Broken(), num_workers=1))  # type: ignore[arg-type]
    assert str(error.value) == "a: it must read, found text (a.nii.gz). Take another."


def test_a_name_as_long_as_the_disk_allows(acdc: Path, module) -> None:
    built = module()
    case = replace(built.parts["train"][0], id="x" * 240)
    assert built.preparer.cache.folder.parent.name == "cache"
    built.preparer.fill([case], progress=False)
    assert built.preparer.cache.find(case) is not None


def test_an_array_may_be_empty(tmp_path: Path, case: Case) -> None:
    """A case without foreground has no place of it."""
    cache = build(tmp_path)
    none = np.zeros((0, 3), np.uint16)
    cache.write(case, ARRAYS | {"places": none}, {})
    found = cache.find(case)
    assert found is not None
    assert found.damaged() == []
    assert found.arrays["places"].open().shape == (0, 3)
    assert np.load(found.arrays["places"].path).dtype == np.uint16


@pytest.mark.parametrize(
    ("array", "change"),
    [
        ("image", {0: "|O"}),  # numpy would take any bytes for pointers
        ("image", {0: "<f8"}),
        ("label", {0: "|V1"}),
        ("label", {1: [5, 3, -4]}),
        ("label", {2: -64}),
        ("../../other", {}),
    ],
)
def test_a_record_of_other_arrays_is_not_used(
    tmp_path: Path, case: Case, array: str, change: dict[int, object]
) -> None:
    """Whoever can write into a shared cache chooses no pointers, and no file outside of it."""
    cache = build(tmp_path)
    cache.write(case, ARRAYS, {})
    (path,) = cache.folder.glob("a-*/case.json")
    record = json.loads(path.read_text())
    del record["digest"]  # one that was made anew would fit
    stored = list(record["arrays"].get(array, record["arrays"]["label"]))
    for place, value in change.items():
        stored[place] = value
    record["arrays"][array] = stored
    path.write_text(json.dumps(record))
    assert cache.find(case) is None
    assert cache.damaged(case) == ["case.json"]
    assert cache.write(case, ARRAYS, {}).arrays["image"].dtype == "<f2"
