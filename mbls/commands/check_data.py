"""``mbls check-data``: every case checked, all problems in one table."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mbls.commands.data import datamodule, parser

__all__ = ["main"]


def main(args: list[str]) -> int:
    """Check every case; exit status 1 if there is any problem."""
    options, rest = parser("mbls check-data", main.__doc__).parse_known_args(args)
    data = datamodule(options, rest)
    problems = data.check()
    root = Path(data.data_root)
    if problems:
        Console().print(problem_table(problems, root))
        return 1
    Console().print(f"[green]No problems[/] in {escape(str(root))}.")
    return 0


def problem_table(problems: list[Any], root: Path) -> Table:
    """Return one row a problem, files named relative to ``root``."""
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    table = Table(
        title=escape(f"{count} in {root}"), title_justify="left", show_lines=True, expand=True
    )
    table.add_column("file", overflow="fold", ratio=3)
    table.add_column("rule", ratio=3)
    table.add_column("found", overflow="fold", ratio=3)
    table.add_column("way out", ratio=3)
    for problem in problems:
        cells = (_short(problem, root), problem.rule, problem.found, problem.fix)
        table.add_row(*map(escape, cells))
    return table


def _short(problem: Any, root: Path) -> str:
    path = Path(problem.path)
    if path == root:
        return "(the folder itself)"
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
