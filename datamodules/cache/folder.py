"""The folder of all caches: what is in it, and what of it is of no use any more."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.cache.leftovers import STALE, now_in
from datamodules.cache.preparation import CACHE_VERSION

_USUAL = ("version", "reader", "labels", "planar", "zero_background")


@dataclass(frozen=True)
class CacheFolder:
    """The cache of one dataset under one choice of settings.

    Attributes:
        path: Its folder.
        dataset: The dataset's name.
        settings: The settings that decide its numbers.
        cases: Number of cases in it.
        size: Bytes on disk.
        age: Seconds since something was written to it.
        stale: Folders of no use any more: this one if another version of the project wrote it;
            else those of cases that were read again since their files changed, and what killed
            jobs left.
        reason: Why; empty if nothing is stale.
    """

    path: Path
    dataset: str
    settings: dict[str, Any]
    cases: int
    size: int
    age: float
    stale: tuple[Path, ...] = field(default=())
    reason: str = ""

    @property
    def summary(self) -> str:
        """Short form of the settings that affect the data and are set."""
        kept = {
            name: value
            for name, value in self.settings.items()
            if name not in _USUAL and value is not None and value is not False  # 0.0 is set
        }
        if kept.get("normalize") != "percentile":
            kept.pop("percentiles", None)
        dims = "2D" if self.settings.get("planar", True) else "3D"
        return ", ".join([dims, *(f"{name} {value}" for name, value in sorted(kept.items()))])


def list_caches(folder: Path) -> list[CacheFolder]:
    """Return the caches in ``folder``, by name; other folders there are left out."""
    if not folder.is_dir():
        return []
    found = (read_cache(path) for path in sorted(folder.iterdir()) if path.is_dir())
    return [cache for cache in found if cache is not None]


def read_cache(path: Path) -> CacheFolder | None:
    """Return what a cache's folder holds, or None if it is none."""
    try:
        settings = json.loads((path / "settings.json").read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(settings, dict) or "version" not in settings:
        return None
    now, newest, size = now_in(path), 0.0, 0
    for file in path.rglob("*"):
        stat = file.lstat()
        size += stat.st_size if file.is_file() else 0
        newest = max(newest, stat.st_mtime)
    entries = [entry for entry in sorted(path.iterdir()) if entry.is_dir()]
    cases = [entry for entry in entries if (entry / "case.json").is_file()]
    drafts = [entry for entry in entries if entry.name.startswith(".")]
    stale: list[Path]
    if settings["version"] != CACHE_VERSION:
        stale, reason = [path], "another version's"
    else:
        replaced = superseded([entry for entry in cases if entry not in drafts])
        dead = [draft for draft in drafts if now - draft.stat().st_mtime > STALE]
        stale = [*replaced, *dead]
        parts = [(len(replaced), "replaced"), (len(dead), "unfinished")]
        reason = ", ".join(f"{count} {label}" for count, label in parts if count)
    dataset = path.name.rpartition("-")[0]
    whole = len(cases) - sum(entry in drafts for entry in cases)
    return CacheFolder(path, dataset, settings, whole, size, now - newest, tuple(stale), reason)


def superseded(cases: list[Path]) -> list[Path]:
    """Return the folders of cases that have a newer one, since their files changed."""
    newest: dict[str, Path] = {}
    for path in sorted(cases, key=lambda path: path.stat().st_mtime):
        newest[path.name.rpartition("-")[0]] = path
    return [path for path in cases if newest[path.name.rpartition("-")[0]] != path]
