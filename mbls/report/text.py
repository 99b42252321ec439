"""A report's tables as Markdown, LaTeX (booktabs) and CSV."""

import csv
import io
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mbls.evaluation.run import csv_field
from mbls.report.analysis import Analysis
from mbls.report.views import Entry, View

__all__ = ["csv_text", "latex_text", "markdown_text"]

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
"""As many letters of \\footnotesize as a column of text of 345 points holds."""
LATEX_HEAD = r"""% needs \usepackage{booktabs,graphicx}; UTF-8
\providecommand{\mblsfit}[1]{\sbox0{#1}\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi}
"""


def markdown_text(views: Sequence[View]) -> str:
    """Return the tables as Markdown, each below its title and above its caption."""
    return "\n".join(_markdown(view) for view in views)


def _markdown(view: View) -> str:
    rows = [
        _markdown_row([markdown_words(name) for name in view.columns]),
        "|" + " --- |" + " ---: |" * (len(view.columns) - 1),
    ]
    for row in view.rows:
        rows.append(_markdown_row([_markdown_cell(entry) for entry in row]))
    below = markdown_words(" ".join([view.caption, *view.legend]))
    return f"### {markdown_words(view.title)}\n\n" + "\n".join(rows) + f"\n\n{below}\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _markdown_cell(entry: Entry) -> str:
    text = markdown_words(entry.text)
    text = f"**{text}**" if entry.best else text
    text += " †" if entry.tied else ""
    return f"{text}<br>{markdown_words(entry.below)}" if entry.below else text


def markdown_words(text: str) -> str:
    r"""Return text in one line, without a tag, a link or the end of a cell in it.

    Example:
        >>> print(markdown_words("<b>own</b> | p < 0.05 [0.1, 0.2]"))
        &lt;b>own&lt;/b> \| p < 0.05 [0.1, 0.2]
    """
    line = " ".join(text.split()).replace("|", r"\|")
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", line).replace("](", r"]\(")


def latex_text(views: Sequence[View]) -> str:
    r"""Return the tables as LaTeX for ``\usepackage{booktabs,graphicx}``, floats of their own.

    A table of many columns is set in pieces below each other; a piece that is wider than the text
    all the same is scaled down to it.
    """
    return LATEX_HEAD + "\n".join(_latex(view, number) for number, view in enumerate(views, 1))


def _latex(view: View, number: int) -> str:
    text = " ".join([f"{view.title}.", view.caption, *view.legend])
    lines = [r"\begin{table}[htbp]", r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}"]
    lines += [f"  \\caption{{{latex_words(text)}}}"]
    lines += [f"  \\label{{tab:mbls-{number}}}"]
    for columns in latex_pieces(view):
        lines += [r"  \par\medskip", *_tabular(view, columns)]
    lines += [r"\end{table}"]
    return "\n".join(lines) + "\n"


def latex_pieces(view: View) -> list[list[int]]:
    """Return the columns of each piece; each piece begins with the first one, which names the rows.

    A table whose rows its first column does not tell apart stays whole.
    """
    names = [row[0].text for row in view.rows]
    widths = [
        max([*map(len, _heading(name)), *(max(len(r[k].text), len(r[k].below)) for r in view.rows)])
        for k, name in enumerate(view.columns)
    ]
    whole = sum(widths) + 2 * len(widths)
    if whole <= LATEX_LETTERS or len(set(names)) < len(names):
        return [list(range(len(widths)))]
    room = LATEX_LETTERS - widths[0]
    number = -(-(whole - widths[0]) // max(room, 1))
    others = np.array_split(np.arange(1, len(widths)), min(number, len(widths) - 1))
    return [[0, *map(int, part)] for part in others]


def _tabular(view: View, columns: Sequence[int]) -> list[str]:
    heads = [latex_heading(view.columns[k]) for k in columns]
    lines = [f"  \\mblsfit{{\\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}", r"    \toprule"]
    lines += ["    " + " & ".join(heads) + r" \\", r"    \midrule"]
    for row in view.rows:
        entries = [row[k] for k in columns]
        cells = " & ".join(map(_latex_entry, entries))
        lines.append(f"    {_after_break(cells)} \\\\")
        if any(entry.below for entry in row):
            below = " & ".join(
                f"{{\\scriptsize {latex_words(e.below)}}}" if e.below else "" for e in entries
            )
            lines.append(f"    {below} \\\\[2pt]")
    return [*lines, r"    \bottomrule", r"  \end{tabular}}"]


def _heading(name: str) -> list[str]:
    """Return the lines of a heading: broken where it has a comma."""
    first, comma, rest = name.partition(", ")
    return [first + comma.strip(), rest] if comma else [first]


def latex_heading(name: str) -> str:
    """Return a heading in one line or two."""
    lines = [_after_break(latex_words(line)) for line in _heading(name)]
    return lines[0] if len(lines) == 1 else "\\shortstack[r]{" + r" \\ ".join(lines) + "}"


def _after_break(cells: str) -> str:
    r"""Return what can stand after ``\\`` or a rule, which take a bracket or a star for theirs."""
    return "{}" + cells if cells.startswith(("[", "*")) else cells


def latex_words(text: str) -> str:
    r"""Return text with what is special to LaTeX written out.

    Example:
        >>> print(latex_words("95 % of cases_1: -0.5"))
        95~\% of cases\_1: $-$0.5
    """
    line = " ".join(text.split())  # an empty line would end the argument that it stands in
    written = "".join(LATEX.get(letter, letter) for letter in line).replace(r" \%", r"~\%")
    minus = re.sub(r"(?<![\w-])-(?=\d)|(?<= )-(?= )", "$-$", written)
    return minus.replace("--", "-{}-")


def _latex_entry(entry: Entry) -> str:
    text = latex_words(entry.text)
    if entry.best:
        text = rf"\textbf{{{text}}}"
    return text + (r"$^\dagger$" if entry.tied else "")


def csv_text(analyses: Sequence[Analysis]) -> str:
    """Return every number, one row a table, measure and loss, with the runs it comes from."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for number, analysis in enumerate(analyses, 1):
        for section in analysis.sections:
            for measure in section.measures:
                where = (section.kind, section.region, section.pooling, measure.key)
                for arm in analysis.group.arms:
                    cell = analysis.cells[measure.key][arm.name]
                    both = cell.over_all
                    values: list[Any] = [
                        cell.value,
                        cell.sd,
                        cell.low,
                        cell.high,
                        both.low,
                        both.high,
                    ]
                    marks = [int(cell.best), int(cell.tied)] if measure.better else ["", ""]
                    facts = [str(analysis.group.facts[f] or "") for f in CSV_FACTS]
                    seeds = " ".join(map(str, arm.seeds))
                    runs = ";".join(str(run.folder) for run in arm.trainings)
                    each = " ".join(map(repr, cell.by_seed))
                    names = map(csv_field, [*facts, *where, arm.name])
                    row = [number, *names, len(arm.seeds), seeds]
                    row += ["" if math.isnan(v) else repr(float(v)) for v in values]
                    writer.writerow([*row, *marks, each, csv_field(runs)])
    return text.getvalue()


CSV_FACTS = (
    *("dataset", "origin", "data fingerprint", "fold", "test cases", "grid", "bins", "test"),
)
CSV_COLUMNS = (
    *("group", *(fact.replace(" ", "_") for fact in CSV_FACTS)),
    *("protocol", "region", "pooling", "measure", "loss", "n_seeds", "seeds"),
    *("mean", "sd_over_seeds", "low_over_patients", "high_over_patients"),
    *("low_over_patients_and_seeds", "high_over_patients_and_seeds"),
    *("best", "not_distinguishable_from_best", "value_of_each_seed", "run_folders"),
)
