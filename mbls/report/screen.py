"""Tables of a report on screen, 80 characters wide."""

from rich import box
from rich.markup import escape
from rich.table import Table

from mbls.report.views import View

__all__ = ["screen_table"]

WIDTH = 80
COLUMNS = 4
"""Columns of numbers that fit into 80 characters."""


def screen_table(view: View) -> list[Table]:
    """Return a view as rich tables, split if it has too many columns."""
    title = f"[bold]{escape(view.title)}[/bold]\n{escape(view.caption)}"
    tables: list[Table] = []
    for start in range(1, view.frame.shape[1], COLUMNS):
        columns = [0, *range(start, min(start + COLUMNS, view.frame.shape[1]))]
        table = Table(title="" if tables else title, title_justify="left", title_style="",
                      box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0),
                      width=WIDTH)  # fmt: skip
        for k in columns:
            table.add_column(
                escape(view.frame.columns[k]), justify="right" if k else "left",
                overflow="ellipsis" if k else "fold", max_width=None if k else 18,
            )  # fmt: skip
        for r, row in enumerate(view.frame.itertuples(index=False)):
            table.add_row(*(_markup(row[k], best=(r, k) in view.best) for k in columns))
        tables.append(table)
    return tables


def _markup(cell: str, *, best: bool) -> str:
    text, _, below = escape(cell.replace(" ± ", "±").replace(" †", "†")).partition("\n")
    text = f"[bold]{text}[/bold]" if best else text
    return f"{text}\n[dim]{below}[/dim]" if below else text
