"""The order of the folders: imports point one way, and no folder imports one above it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the bottom up: what a line names may import the lines above it, and nothing below.
ORDER = (
    ("mbls/__init__.py",),
    ("mbls/runtime",),
    ("mbls/data.py",),
    ("mbls/losses", "mbls/metrics", "mbls/networks", "mbls/inference.py", "datamodules"),
    ("mbls/plots",),
    ("mbls/evaluation",),
    ("mbls/loggers",),
    ("mbls/module.py",),
    ("mbls/callbacks",),
    ("mbls/config",),
    ("mbls/report", "mbls/benchmark"),
    ("mbls/commands",),
    ("mbls/cli.py",),
    ("experiments",),
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
FILES = [
    path for top in ("mbls", "datamodules", "experiments") for path in (ROOT / top).rglob("*.py")
]


def room(path: Path) -> str:
    """What a file belongs to: a folder of mbls, a file of its root, or another package."""
    parts = path.relative_to(ROOT).parts
    return "/".join(parts[:2]) if parts[0] == "mbls" else parts[0]


def imports(path: Path) -> Iterator[str]:
    """The rooms that a file imports from, also inside its functions."""
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


def test_every_file_belongs_to_a_room() -> None:
    assert {room(path) for path in FILES} == set(RANK)


@pytest.mark.parametrize("name", sorted(RANK))
def test_imports_point_down(name: str) -> None:
    climbs = {
        (path.relative_to(ROOT).as_posix(), other)
        for path in FILES
        if room(path) == name
        for other in imports(path)
        if other != name and RANK[other] >= RANK[name]
    }
    assert not climbs


def test_mbls_does_not_import_datamodules() -> None:
    ours = [path for path in FILES if room(path).startswith("mbls")]
    assert not [path for path in ours if "datamodules" in imports(path)]
