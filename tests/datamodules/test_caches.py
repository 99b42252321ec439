"""The folder of all caches: listed, and cleared of unused ones."""

import json
import os
import time
from pathlib import Path

import pytest

from datamodules.cache.folder import list_caches
from datamodules.cache.leftovers import clear_leftovers
from datamodules.cache.preparation import CACHE_VERSION
from mbls.cli import main


@pytest.fixture
def folder(module, acdc: Path, tmp_path: Path) -> Path:
    """Two caches of today, one of another version, and a folder that is none."""
    flat = module()
    flat.prepare(progress=False)
    module(spatial_dims=3, patch_size=(8, 8, 4)).prepare(progress=False)
    changed = acdc / "training" / "patient001" / "patient001_frame01.nii.gz"
    os.utime(changed, (1, 1))  # so that the case is read again
    flat.prepare(progress=False)
    old = tmp_path / "cache" / "acdc-000000000000"
    (old / "patient001-abc").mkdir(parents=True)
    (old / "settings.json").write_text(json.dumps({"version": CACHE_VERSION - 1}))
    (tmp_path / "cache" / "mine").mkdir()
    draft = flat.preparer.cache.folder / ".patient009.tmp"
    draft.mkdir()
    os.utime(draft, (time.time() - 7200,) * 2)
    return tmp_path / "cache"


def test_listing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    caches = {cache.path.name: cache for cache in list_caches(folder)}
    old = caches.pop("acdc-000000000000")
    assert (old.reason, old.stale) == ("another version's", (old.path,))
    assert len(caches) == 2
    flat = next(cache for cache in caches.values() if cache.summary.startswith("2D"))
    deep = next(cache for cache in caches.values() if cache.summary.startswith("3D"))
    assert (flat.dataset, flat.cases, flat.reason) == ("acdc", 21, "1 replaced, 1 unfinished")
    assert (deep.cases, deep.reason, deep.stale) == (20, "", ())
    assert "normalize zscore" in flat.summary
    size = sum(file.stat().st_size for file in flat.path.rglob("*") if file.is_file())
    assert flat.size == size > 20 * 20 * 24 * 4 * 5
    assert main(["cache-info", "--cache", str(folder)]) == 0
    assert "another" in capsys.readouterr().out


def test_a_setting_of_zero_is_listed(module, tmp_path: Path) -> None:
    """BraTS crops above 0.0, which is not the same as not to crop."""
    module(crop_above=0.0).prepare(progress=False)
    (cache,) = list_caches(tmp_path / "cache")
    assert "crop_above 0.0" in cache.summary
    assert "window" not in cache.summary
    assert "antialias" not in cache.summary


def test_cleaning_asks_and_removes_stale_caches(
    folder: Path, module, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["cache-clean", "--cache", str(folder)]
    before = sorted(folder.rglob("*"))
    assert main(args) == 1
    assert "Confirm with --yes" in capsys.readouterr().out
    assert sorted(folder.rglob("*")) == before
    assert main([*args, "--yes"]) == 0
    assert [cache.reason for cache in list_caches(folder)] == ["", ""]
    assert (folder / "mine").is_dir()
    module().setup("fit")  # every case is still there
    assert main([*args, "--yes"]) == 0
    assert "Nothing to remove" in capsys.readouterr().out
    assert main([*args, "--yes", "--all"]) == 0
    assert list_caches(folder) == []
    assert (folder / "mine").is_dir()


def test_old_caches_go_by_days(folder: Path) -> None:
    for cache in list_caches(folder):
        if cache.summary.startswith("3D"):
            for path in cache.path.rglob("*"):
                os.utime(path, (time.time() - 40 * 86400,) * 2)
    assert main(["cache-clean", "--cache", str(folder), "--yes", "--days", "30"]) == 0
    assert [cache.summary[:2] for cache in list_caches(folder)] == ["2D"]


def test_no_caches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache-info", "--cache", str(tmp_path / "none")]) == 0
    assert "No caches in" in capsys.readouterr().out


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_clock_that_goes_wrong_removes_no_live_draft(
    hours: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This machine's clock, next to that of the file server, which stamps the files."""
    clock = time.time
    for name, age in (("live", 60), ("dead", 7200)):
        (tmp_path / f".{name}.tmp").mkdir()
        os.utime(tmp_path / f".{name}.tmp", (clock() - age,) * 2)
    monkeypatch.setattr(time, "time", lambda: clock() + hours * 3600)
    clear_leftovers(tmp_path, ".*.tmp")
    assert [path.name for path in tmp_path.iterdir()] == [".live.tmp"]
