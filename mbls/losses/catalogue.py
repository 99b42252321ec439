"""The table of the losses: what the configurations choose, what the docstrings say of it."""

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.markup import escape
from rich.table import Table

__all__ = ["Entry", "loss_entries", "loss_table"]

UNSAID = ("ignore_index", "validate", "losses")  # arguments that every loss has, or that are parts


@dataclass(frozen=True)
class Entry:
    """One LOSS=name.

    Args:
        name: The configuration's stem.
        cls: The class, its base or its parts after it.
        formula: The docstring's line.
        defaults: The configuration's arguments.
        paper: The docstring's line.
        soft: True if it takes soft labels; those inside do, too.
    """

    name: str
    cls: str
    formula: str
    defaults: str
    paper: str
    soft: bool


def loss_entries(folder: Path) -> list[Entry]:
    """Return an entry for each file of ``folder``, sorted by name.

    Args:
        folder: ``<name>.yaml`` files, each with ``model.loss``.

    Raises:
        FileNotFoundError: The folder has no such file.
    """
    paths = sorted(path for path in folder.glob("*.yaml") if "." not in path.stem)
    if not paths:
        raise FileNotFoundError(f"{folder} must contain <name>.yaml files of losses, found none.")
    return [_entry(path) for path in paths]


def loss_table(folder: Path) -> Table:
    """Return the table of :func:`loss_entries`, to print with rich; it fits 80 columns."""
    table = Table(title="Losses", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("LOSS", style="bold", no_wrap=True)
    table.add_column("class, formula, defaults, paper")
    for entry in loss_entries(folder):
        lines = [escape(line) for line in (entry.cls, entry.formula, entry.defaults, entry.paper)]
        lines[2] = lines[2] and f"[dim]{lines[2]}[/dim]"
        table.add_row(escape(entry.name), "\n".join(filter(None, lines)))
    return table


def _entry(path: Path) -> Entry:
    config = yaml.safe_load(path.read_text())["model"]["loss"]
    nodes = list(_losses(config))
    names = [_name(node) for _, node in nodes]
    cls = names[0] if len(names) == 1 else f"{names[0]} of {', '.join(names[1:])}"
    formula = _docstring_line(config["class_path"], "Formula")
    arguments = config.get("init_args", {})
    if arguments.get("base"):
        formula = re.sub(r"^CE\b", _name(arguments["base"]), formula)
    if "losses" in arguments:
        formula = " + ".join(f"{factor:g} {_name(node)}" for factor, node in nodes[1:])
    penalties = [node for _, node in nodes if _name(node) != "CrossEntropyLoss"]
    papers = (_docstring_line(node["class_path"], "Paper") for node in penalties or [config])
    paper = next(filter(None, papers), "")
    settings = (_settings(node.get("init_args", {})) for _, node in nodes)
    soft = all(getattr(_class(node["class_path"]), "soft_targets", False) for _, node in nodes)
    return Entry(path.stem, cls, formula, "; ".join(filter(None, settings)), paper, soft)


def _losses(config: dict[str, Any]) -> Iterator[tuple[float, dict[str, Any]]]:
    """Yield the loss and those inside it, with their factors."""
    yield 1.0, config
    inside = config.get("init_args", {})
    yield from (inside.get("losses") or {}).values()
    if inside.get("base"):
        yield 1.0, inside["base"]


def _name(config: dict[str, Any]) -> str:
    return config["class_path"].rpartition(".")[2]


def _class(class_path: str) -> Any:
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _docstring_line(class_path: str, what: str) -> str:
    """Return the docstring's ``what:`` line, indented ones after it too; nothing if it has none."""
    text = inspect.getdoc(_class(class_path)) or ""
    found = re.search(rf"^{what}: (.+(?:\n +.+)*)$", text, re.MULTILINE)
    return " ".join(found.group(1).split()) if found else ""


def _settings(arguments: dict[str, Any]) -> str:
    shown = {k: v for k, v in arguments.items() if k not in UNSAID and not isinstance(v, dict)}
    return ", ".join(f"{key}={value}" for key, value in shown.items() if value is not None)
