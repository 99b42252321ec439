"""A report's tables on the screen, 80 columns wide."""

from rich import box
from rich.markup import escape
from rich.table import Table

from mbls.report.views import Entry, View

__all__ = ["screen_table"]

WIDTH = 80
COLUMNS = 4
"""Most columns of numbers that 80 columns hold."""


def screen_table(view: View) -> list[Table]:
    """Return a view as rich tables, in pieces where it has too many columns."""
    first, *others = view.columns
    pieces = [others[i : i + COLUMNS] for i in range(0, len(others), COLUMNS)]
    tables: list[Table] = []
    for number, names in enumerate(pieces):
        title = f"[bold]{escape(view.title)}[/bold]\n{escape(view.caption)}"
        table = Table(title="" if tables else title, title_justify="left", title_style="",
                      box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0),
                      width=WIDTH)  # fmt: skip
        table.add_column(escape(first), overflow="fold", max_width=18)
        for name in names:
            table.add_column(escape(name), justify="right")
        start = 1 + number * COLUMNS
        for row in view.rows:
            table.add_row(*(_words(e) for e in (row[0], *row[start : start + len(names)])))
        tables.append(table)
    return tables


def _words(entry: Entry) -> str:
    text = escape(entry.text.replace(" ± ", "±"))
    if entry.best:
        text = f"[bold]{text}[/bold]"
    text += "†" if entry.tied else ""
    return f"{text}\n[dim]{escape(entry.below)}[/dim]" if entry.below else text
