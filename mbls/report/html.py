"""A report as a single, self-contained HTML file."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.text import Text

from mbls import __version__
from mbls.callbacks.run_card import commit
from mbls.plots.style import INCHES
from mbls.report.analysis import Analysis
from mbls.report.figures import Drawn
from mbls.report.groups import differing
from mbls.report.runs import LeftOut
from mbls.report.text import format_view
from mbls.report.views import View, runs_view, scope

__all__ = ["html_text"]

PAPER, INK = "#14181d", "#e6e8eb"  # colors of the dark mode


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
        analyses: One analysis per group of comparable runs.
        views: Tables of each group.
        figures: Figures of each group.
        left_out: Runs that are not in any table.
        command: The command line that made the report.
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
    )


def _group(
    number: int,
    analysis: Analysis,
    first: Analysis,
    views: Sequence[View],
    figures: Sequence[Drawn],
) -> dict[str, Any]:
    """Return the template's variables of one group."""
    anchors = {a.name: f"runs-{number}-{k}" for k, a in enumerate(analysis.group.arms)}
    items = [
        *(_table(view, anchors) for view in views if view.lead),
        *map(_figure, figures),
        *(_table(view, anchors) for view in views if not view.lead),
        _table(runs_view(analysis), anchors, targets=True),
    ]
    for place, item in enumerate(items):
        item["id"] = f"part-{number}-{place}"
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


def _table(view: View, anchors: Mapping[str, str], *, targets: bool = False) -> dict[str, Any]:
    """Return a table as HTML; rows link to their loss in the table of runs (the ``targets``)."""
    every = range(view.frame.shape[1])
    frame = format_view(view, escape, "<strong>{}</strong>", "{}<small>{}</small>", every)
    frame.columns = [re.sub(" (?=[↑↓])", "&nbsp;", name) for name in frame.columns]
    left, first = dict(anchors), []
    for plain, cell in zip(view.frame.iloc[:, 0], frame.iloc[:, 0], strict=True):
        name, small, below = cell.partition("<small>")
        key = plain.partition("\n")[0]
        if targets and (anchor := left.pop(key, None)):
            name = f'<span id="{anchor}">{name}</span>'
        elif not targets and key in anchors:
            name = f'<a href="#{anchors[key]}">{name}</a>'
        first.append(name + small + below)
    rows = frame.iloc[:, 1:].set_axis(first).rename_axis(columns=frame.columns[0])
    caption = f"<span>{escape(view.caption)}</span>"
    table = rows.style.set_caption(caption).to_html(exclude_styles=True)
    return {"title": view.title, "table": Markup(table), "legend": view.legend, "prose": targets}


def _figure(drawn: Drawn) -> dict[str, Any]:
    return {
        "title": drawn.title,
        "table": None,
        "alt": drawn.alt,
        "caption": f"{drawn.caption} Files: {drawn.name}.png, {drawn.name}.pdf".strip(),
        "width": f"{60 * drawn.figure.get_figwidth() / INCHES:.0f}rem",
        "source": data_uri(drawn),
        "dark": data_uri(drawn, dark=True) if drawn.picture else None,
    }


def data_uri(drawn: Drawn, *, dark: bool = False) -> str:
    """Return a figure as a data URI: lines as SVG, pixels as PNG.

    In dark mode, the page inverts the colors of an SVG, but needs a second PNG.
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
    """Set a figure's text and axes to light colors; images are not changed."""
    figure.set_facecolor(PAPER)
    for text in figure.findobj(Text):
        text.set_color(INK)
    for axes in figure.axes:
        axes.tick_params(color=INK)
        axes.spines[:].set_color(INK)
