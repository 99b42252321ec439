"""A report as one HTML file that needs nothing beside it: no network, no other file."""

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from matplotlib.figure import Figure
from matplotlib.text import Text

from mbls import __version__
from mbls.callbacks.run_card import commit
from mbls.report.analysis import Analysis
from mbls.report.figures import Drawn
from mbls.report.groups import differing
from mbls.report.runs import LeftOut
from mbls.report.views import Entry, View, runs_view, scope

__all__ = ["html_text"]

PAPER, INK = "#14181d", "#e6e8eb"  # of the page where it is dark


def html_text(
    analyses: Sequence[Analysis],
    views: Sequence[Sequence[View]],
    figures: Sequence[Sequence[Drawn]],
    left_out: Sequence[LeftOut],
    *,
    command: str,
) -> str:
    """Return the page.

    Args:
        analyses: One a group of comparable runs.
        views: Tables of each group.
        figures: Figures of each group.
        left_out: Runs that no table holds.
        command: What was run to make the report.
    """
    environment = Environment(
        loader=PackageLoader("mbls.report", "."), autoescape=select_autoescape(default=True),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    datasets = dict.fromkeys(analysis.group.data for analysis in analyses)
    groups = [
        _group(number, analysis, analyses[0], tables, drawn)
        for number, (analysis, tables, drawn) in enumerate(
            zip(analyses, views, figures, strict=True), 1
        )
    ]
    return environment.get_template("report.html.j2").render(
        title=f"Losses compared on {', '.join(datasets)}",
        version=__version__,
        commit=commit() or "unknown",
        command=command,
        phantom=any(a.group.first.meta["origin"] == "phantom" for a in analyses),
        groups=groups,
        left_out=left_out,
        sort_value=sort_value,
    )


def _group(
    number: int,
    analysis: Analysis,
    first: Analysis,
    views: Sequence[View],
    figures: Sequence[Drawn],
) -> dict[str, Any]:
    """Return what the template shows of one group."""
    anchors = {a.name: f"runs-{number}-{k}" for k, a in enumerate(analysis.group.arms)}
    leading = [_table(view, anchors) for view in views if view.lead]
    further = [_table(view, anchors) for view in views if not view.lead]
    drawn = [_figure(one) for one in figures]
    runs = _table(runs_view(analysis), {}, words=True)
    items = [*leading, *drawn, *further, runs]
    for place, item in enumerate(items):
        item["id"] = f"part-{number}-{place}"
    for arm, anchor in anchors.items():
        _mark(runs["view"], arm, anchor)
    return {
        "number": number,
        "id": f"group-{number}",
        "title": f"Group {number}: {analysis.group.data}" if number > 1 else analysis.group.data,
        "scope": scope(analysis),
        "apart": "; ".join(differing(first.group, analysis.group)),
        "cautions": analysis.cautions,
        "notes": analysis.group.notes,
        "parts": items,
    }


def _table(view: View, anchors: Mapping[str, str], *, words: bool = False) -> dict[str, Any]:
    rows = [[_entry(e, anchors if k == 0 else {}) for k, e in enumerate(row)] for row in view.rows]
    columns = [re.sub(" (?=[↑↓])", "\u00a0", name) for name in view.columns]
    shown = {"title": view.title, "caption": view.caption, "legend": view.legend,
             "columns": columns, "rows": rows}  # fmt: skip
    return {"title": view.title, "view": shown, "words": words}


def _entry(entry: Entry, anchors: Mapping[str, str]) -> dict[str, Any]:
    return {**entry.__dict__, "link": anchors.get(entry.text), "anchor": None}


def _mark(view: Mapping[str, Any], arm: str, anchor: str) -> None:
    """Give the first run of an arm the anchor that its rows link to."""
    for row in view["rows"]:
        if row[0]["text"] == arm:
            row[0]["anchor"] = anchor
            return


def _figure(drawn: Drawn) -> dict[str, Any]:
    return {
        "title": drawn.title,
        "view": None,
        "alt": drawn.alt,
        "caption": f"{drawn.caption} Files: {drawn.name}.png, {drawn.name}.pdf".strip(),
        "source": data_address(drawn),
        "dark": data_address(drawn, dark=True) if drawn.picture else None,
    }


def data_address(drawn: Drawn, *, dark: bool = False) -> str:
    """Return a figure as an address that holds it: lines as SVG, pixels as PNG.

    The page turns the colors of lines around where it is dark; of pixels it needs another figure.
    """
    if dark:
        _darken(drawn.figure)
    file = io.BytesIO()
    if drawn.picture:
        drawn.figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
        kind = "png"
    else:
        drawn.figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        kind = "svg+xml"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _darken(figure: Figure) -> None:
    """Let a figure's words stand out from a dark page, and its images be as they are."""
    figure.set_facecolor(PAPER)
    for text in figure.findobj(Text):
        text.set_color(INK)
    for axes in figure.axes:
        axes.tick_params(color=INK)
        axes.spines[:].set_color(INK)


def sort_value(entry: Mapping[str, Any]) -> str:
    """Return what a cell sorts by; empty, hence last, where there is nothing."""
    value = entry["value"]
    if value is None:
        return str(entry["text"])
    return "" if math.isnan(value) else repr(float(value))
