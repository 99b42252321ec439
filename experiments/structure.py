"""The folders of the source and what they import: their order, and a diagram of it for the docs."""

import ast
from collections.abc import Iterator
from pathlib import Path

__all__ = ["ORDER", "climbing", "diagram", "imports", "room", "source_files"]

ROOT = Path(__file__).parents[1]
# From the bottom up: what a line names may import the lines above it, and nothing below.
ORDER = (
    ("mbls/__init__.py",),
    ("mbls/runtime",),
    ("mbls/data.py",),
    ("mbls/losses", "mbls/metrics", "mbls/networks", "mbls/inference.py", "datamodules"),
    ("mbls/plots",),
    ("mbls/evaluation", "mbls/predictions"),
    ("mbls/posthoc", "mbls/decisions"),
    ("mbls/loggers",),
    ("mbls/module.py",),
    ("mbls/callbacks",),
    ("mbls/config",),
    ("mbls/report", "mbls/benchmark"),
    ("mbls/commands",),
    ("mbls/cli.py",),
    ("experiments",),
)
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
EVERYWHERE = ("mbls/__init__.py", "mbls/runtime")  # what nearly all import is not drawn


def source_files() -> list[Path]:
    """Return the Python files of the packages."""
    return [p for top in ("mbls", "datamodules", "experiments") for p in (ROOT / top).rglob("*.py")]


def room(path: Path) -> str:
    """Return what a file belongs to: a folder of mbls, a file of its root, or another package."""
    parts = path.relative_to(ROOT).parts
    return "/".join(parts[:2]) if parts[0] == "mbls" else parts[0]


def imports(path: Path) -> Iterator[str]:
    """Yield the rooms that a file imports from, also inside its functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            base = ROOT.joinpath(*name.split("."))
            for file in (base.with_suffix(".py"), base / "__init__.py"):
                if file.is_file() and file.is_relative_to(ROOT):
                    yield room(file)


def climbing(name: str) -> set[tuple[str, str]]:
    """Return ``(file, room)`` of the imports of a room that do not point down."""
    return {
        (path.relative_to(ROOT).as_posix(), other)
        for path in source_files()
        if room(path) == name
        for other in imports(path)
        if other != name and RANK[other] >= RANK[name]
    }


def diagram() -> str:
    """Return the rooms as a Mermaid flowchart; an arrow points to what a room imports directly.

    An import that follows from the other arrows is left out.
    """
    below: dict[str, set[str]] = {name: set() for name in RANK if name not in EVERYWHERE}
    for path in source_files():
        if (name := room(path)) in below:
            below[name] |= {other for other in imports(path) if other in below and other != name}
    lines = ["```mermaid", "flowchart TD"]
    lines += [f'  {_key(name)}["{name}"]' for name in sorted(below, key=lambda n: -RANK[n])]
    for name, found in below.items():
        reached = {far for near in found for far in _reach(near, below)}
        lines += [f"  {_key(name)} --> {_key(other)}" for other in sorted(found - reached)]
    return "\n".join([*lines, "```"])


def _reach(name: str, below: dict[str, set[str]]) -> set[str]:
    found = set(below[name])
    for other in below[name]:
        found |= _reach(other, below)
    return found


def _key(name: str) -> str:
    return name.replace("/", "_").replace(".py", "")
