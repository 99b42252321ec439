"""``mbls cache-info`` and ``mbls cache-clean``: what is in the folder of all caches."""

import argparse
import shutil
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["main"]


def main(args: list[str]) -> int:
    """List the caches, or remove what is of no use any more."""
    command, *rest = args
    p = argparse.ArgumentParser(
        prog=f"mbls {command}",
        allow_abbrev=False,
        description="List the caches below a folder."
        if command == "cache-info"
        else "Remove caches of other versions, cases whose files have changed since, and what "
        "killed jobs left. A cache is made again by `mbls data` whenever it is needed.",
    )
    p.add_argument("--cache", type=Path, default=Path("cache"), metavar="FOLDER")
    if command == "cache-clean":
        p.add_argument("--all", action="store_true", help="remove every cache")
        p.add_argument("--days", type=float, metavar="N",
                       help="also remove caches last written to N days ago")  # fmt: skip
        p.add_argument("--yes", action="store_true", help="do not ask")
    options = p.parse_args(rest)

    from datamodules.cache.folder import list_caches  # with torch, which --help needs not

    caches, console = list_caches(options.cache), Console()
    if not caches:
        console.print(f"No caches in {options.cache}.", markup=False, highlight=False)
        return 0
    if command == "cache-info":
        console.print(cache_table(caches, options.cache))
        return 0
    doomed = []
    for cache in caches:
        old = options.days is not None and cache.age > options.days * 86400
        doomed += [cache.path] if options.all or old else list(cache.stale)
    return remove(doomed, console, ask=not options.yes)


def cache_table(caches: list, folder: Path) -> Table:
    """Return one row a cache, with what of it is stale."""
    total = _bytes(sum(cache.size for cache in caches))
    table = Table(title=escape(f"{folder}: {total}"), title_justify="left", show_lines=True)
    for name in ("folder", "dataset", "settings", "cases", "size", "age", "stale"):
        table.add_column(name, overflow="fold", justify="right" if name in _NUMBERS else "left")
    for cache in caches:
        numbers = str(cache.cases), _bytes(cache.size), _duration(cache.age)
        cells = cache.path.name, cache.dataset, cache.summary, *numbers, cache.reason
        table.add_row(*map(escape, cells))
    return table


def remove(folders: list[Path], console: Console, *, ask: bool) -> int:
    """Remove folders once it is confirmed; exit status 1 if it is not."""
    if not folders:
        console.print("Nothing to remove: every cache is one that today's settings could use.")
        return 0
    size = sum(f.lstat().st_size for folder in folders for f in folder.rglob("*") if f.is_file())
    for folder in folders:
        console.print(f"  {folder}", markup=False, highlight=False, soft_wrap=True)
    if ask:
        if not sys.stdin.isatty():
            console.print(f"{_bytes(size)} would be freed. Confirm with --yes (make: YES=1).")
            return 1
        if console.input(f"Remove these and free {_bytes(size)}? \\[y/N] ").strip().lower() != "y":
            return 1
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    left = [folder for folder in folders if folder.exists()]
    for folder in left:
        text = f"{folder} could not be removed."
        console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Freed {_bytes(size)}." if not left else "Not all of it could be removed.")
    return 1 if left else 0


_NUMBERS = ("cases", "size", "age")


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.0f} s"
