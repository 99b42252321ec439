"""``mbls check-data``: every case checked, all problems in one table."""

from rich.console import Console
from rich.table import Table

from mbls.commands.data import datamodule, parser

__all__ = ["main"]


def main(args: list[str]) -> int:
    """Check every case; exit status 1 if there is any problem."""
    options, rest = parser("mbls check-data", main.__doc__).parse_known_args(args)
    data = datamodule(options, rest)
    problems = data.check()
    console = Console()
    if not problems:
        console.print(f"[green]No problems[/]: {options.dataset} in {data.root}.")
        return 0
    table = Table(title=f"{len(problems)} problems", title_justify="left", show_lines=True)
    for column in ("case", "file", "rule", "found", "way out"):
        table.add_column(column, overflow="fold")
    for p in problems:
        table.add_row(p.case, str(p.path), p.rule, p.found, p.fix)
    console.print(table)
    return 1
