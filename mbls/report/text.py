"""Tables of a report as Markdown, LaTeX (booktabs) and CSV."""

import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from mbls.evaluation.run import csv_field
from mbls.report.analysis import Analysis
from mbls.report.views import View

__all__ = ["csv_text", "format_view", "latex_text", "markdown_text"]

LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "†": r"$^\dagger$",
    "<": "$<$",
    ">": "$>$",
}
LATEX_LETTERS = 80
"""Characters of \\footnotesize in a text width of 345 points."""
LATEX_HEAD = r"""% needs \usepackage{booktabs,graphicx}; UTF-8
\providecommand{\mblsfit}[1]{\sbox0{#1}\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi}
"""
CSV_FACTS = ("dataset", "origin", "data fingerprint", "fold", "test cases", "grid", "bins", "test")


def format_view(
    view: View, escape: Callable[[str], str], bold: str, below: str, columns: Sequence[int]
) -> pd.DataFrame:
    """Return columns of a table in a markup format.

    Args:
        view: The table.
        escape: Escapes plain text for the format.
        bold: Format string for the best of a column, with one ``{}``.
        below: Format string for a cell of two lines, with two ``{}``.
        columns: Positions of the columns.
    """
    frame = view.frame.iloc[:, list(columns)].copy()
    for place, k in enumerate(columns):
        cells = []
        for r, cell in enumerate(frame.iloc[:, place]):
            text, _, second = cell.partition("\n")
            text = bold.format(escape(text)) if (r, k) in view.best else escape(text)
            cells.append(below.format(text, escape(second)) if second else text)
        frame.isetitem(place, cells)
    return frame.set_axis([escape(name) for name in frame.columns], axis=1)


def markdown_text(views: Sequence[View]) -> str:
    """Return the tables as Markdown, each with title and caption."""
    texts = []
    for view in views:
        every = range(view.frame.shape[1])
        frame = format_view(view, escape_markdown, "**{}**", "{}<br>{}", every)
        rows = [frame.columns, ["---"] + ["---:"] * (len(every) - 1), *frame.to_numpy()]
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        below = escape_markdown(" ".join([view.caption, *view.legend]))
        texts.append(f"### {escape_markdown(view.title)}\n\n{table}\n\n{below}\n")
    return "\n".join(texts)


def escape_markdown(text: str) -> str:
    r"""Return text on one line, with tags, links and cell separators escaped.

    Example:
        >>> print(escape_markdown("<b>own</b> | p < 0.05 [0.1, 0.2]"))
        &lt;b>own&lt;/b> \| p < 0.05 [0.1, 0.2]
    """
    line = " ".join(text.split()).replace("|", r"\|")
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", line).replace("](", r"]\(")


def latex_text(views: Sequence[View]) -> str:
    r"""Return the tables as LaTeX floats for ``\usepackage{booktabs,graphicx}``.

    A wide table is split into pieces below each other; a piece that is still wider than the text
    is scaled down.
    """
    return LATEX_HEAD + "\n".join(_latex(view, number) for number, view in enumerate(views, 1))


def _latex(view: View, number: int) -> str:
    caption = escape_latex(" ".join([f"{view.title}.", view.caption, *view.legend]))
    lines = [r"\begin{table}[htbp]", r"\centering\footnotesize\setlength{\tabcolsep}{3pt}"]
    lines += [f"\\caption{{{caption}}}", f"\\label{{tab:mbls-{number}}}"]
    stack = r"\shortstack[%s]{{{} \\ \scriptsize {}}}"
    for columns in latex_pieces(view):
        frame = format_view(view, escape_latex, r"\textbf{{{}}}", stack % "r", columns)
        frame.isetitem(0, format_view(view, escape_latex, "{}", stack % "l", [0]).iloc[:, 0])
        heads = [name.replace(", ", r", \\ ", 1) for name in frame.columns]
        frame.columns = [f"\\shortstack[r]{{{h}}}" if r"\\" in h else h for h in heads]
        align = "l" + "r" * (len(columns) - 1)
        table = frame.to_latex(index=False, escape=False, column_format=align)
        lines += [r"\par\medskip", f"\\mblsfit{{{table.rstrip()}}}"]
    return "\n".join([*lines, r"\end{table}", ""])


def latex_pieces(view: View) -> list[list[int]]:
    """Return the columns of each piece; each begins with the first column, which names the rows.

    A table with duplicates in its first column is not split.
    """
    texts = [[*name.split(", ", 1), *"\n".join(cells).split("\n")]
             for name, cells in view.frame.items()]  # fmt: skip
    widths = [max(map(len, lines)) for lines in texts]
    whole = sum(widths) + 2 * len(widths)
    if whole <= LATEX_LETTERS or view.frame.iloc[:, 0].duplicated().any():
        return [list(range(len(widths)))]
    available = LATEX_LETTERS - widths[0]
    number = -(-(whole - widths[0]) // max(available, 1))
    others = np.array_split(np.arange(1, len(widths)), min(number, len(widths) - 1))
    return [[0, *map(int, part)] for part in others]


def escape_latex(text: str) -> str:
    r"""Return text with LaTeX's special characters escaped.

    Example:
        >>> print(escape_latex("95 % of cases_1: -0.5"))
        95~\% of cases\_1: $-$0.5
    """
    line = " ".join(text.split())  # an empty line would end a macro's argument
    escaped = "".join(LATEX.get(letter, letter) for letter in line).replace(r" \%", r"~\%")
    minus = re.sub(r"(?<![\w-])-(?=\d)|(?<= )-(?= )", "$-$", escaped).replace("--", "-{}-")
    return re.sub(r"(^|, )(?=[\[*])", r"\1{}", minus)  # otherwise an argument of a preceding \\


def csv_text(analyses: Sequence[Analysis]) -> str:
    """Return all results as CSV, one row per table, measure and loss, with their runs."""
    rows = []
    for number, analysis in enumerate(analyses, 1):
        facts = {f.replace(" ", "_"): str(analysis.group.facts[f] or "") for f in CSV_FACTS}
        places = [(s, m, arm) for s in analysis.sections for m in s.measures
                  for arm in analysis.group.arms]  # fmt: skip
        for section, measure, arm in places:
            cell = analysis.cells[measure.key][arm.name]
            names = {
                **facts,
                "protocol": section.kind,
                "region": section.region,
                "pooling": section.pooling,
                "measure": measure.key,
                "loss": arm.name,
            }
            row = {
                "group": number,
                **{name: csv_field(value) for name, value in names.items()},
                "n_seeds": len(arm.seeds),
                "seeds": " ".join(map(str, arm.seeds)),
                "mean": cell.value,
                "sd_over_seeds": cell.sd,
                "low_over_patients": cell.low,
                "high_over_patients": cell.high,
                "low_over_patients_and_seeds": cell.over_all.low,
                "high_over_patients_and_seeds": cell.over_all.high,
                "best": int(cell.best) if measure.better else "",
                "not_distinguishable_from_best": int(cell.tied) if measure.better else "",
                "value_of_each_seed": " ".join(map(repr, cell.by_seed)),
                "run_folders": csv_field(";".join(str(run.folder) for run in arm.trainings)),
            }
            rows.append(row)
    return pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")
