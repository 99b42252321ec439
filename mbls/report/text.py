"""A report's tables as Markdown, LaTeX (booktabs) and CSV."""

import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from mbls.evaluation.run import csv_field
from mbls.report.analysis import Analysis
from mbls.report.views import View

__all__ = ["csv_text", "latex_text", "markdown_text", "written"]

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
CSV_FACTS = ("dataset", "origin", "data fingerprint", "fold", "test cases", "grid", "bins", "test")


def written(
    view: View, words: Callable[[str], str], bold: str, below: str, columns: Sequence[int]
) -> pd.DataFrame:
    """Return some columns of a table in a format.

    Args:
        view: The table.
        words: From plain text to that of the format.
        bold: How the best is written, with ``{}`` for it.
        below: How a cell of two lines is written, with two ``{}``.
        columns: Their positions.
    """
    frame = view.frame.iloc[:, list(columns)].copy()
    for place, k in enumerate(columns):
        cells = []
        for r, cell in enumerate(frame.iloc[:, place]):
            text, _, second = cell.partition("\n")
            text = bold.format(words(text)) if (r, k) in view.best else words(text)
            cells.append(below.format(text, words(second)) if second else text)
        frame.isetitem(place, cells)
    return frame.set_axis([words(name) for name in frame.columns], axis=1)


def markdown_text(views: Sequence[View]) -> str:
    """Return the tables as Markdown, each below its title and above its caption."""
    texts = []
    for view in views:
        every = range(view.frame.shape[1])
        frame = written(view, markdown_words, "**{}**", "{}<br>{}", every)
        rows = [frame.columns, ["---"] + ["---:"] * (len(every) - 1), *frame.to_numpy()]
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        below = markdown_words(" ".join([view.caption, *view.legend]))
        texts.append(f"### {markdown_words(view.title)}\n\n{table}\n\n{below}\n")
    return "\n".join(texts)


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
    caption = latex_words(" ".join([f"{view.title}.", view.caption, *view.legend]))
    lines = [r"\begin{table}[htbp]", r"\centering\footnotesize\setlength{\tabcolsep}{3pt}"]
    lines += [f"\\caption{{{caption}}}", f"\\label{{tab:mbls-{number}}}"]
    stack = r"\shortstack[%s]{{{} \\ \scriptsize {}}}"
    for columns in latex_pieces(view):
        frame = written(view, latex_words, r"\textbf{{{}}}", stack % "r", columns)
        frame.isetitem(0, written(view, latex_words, "{}", stack % "l", [0]).iloc[:, 0])
        heads = [name.replace(", ", r", \\ ", 1) for name in frame.columns]
        frame.columns = [f"\\shortstack[r]{{{h}}}" if r"\\" in h else h for h in heads]
        align = "l" + "r" * (len(columns) - 1)
        table = frame.to_latex(index=False, escape=False, column_format=align)
        lines += [r"\par\medskip", f"\\mblsfit{{{table.rstrip()}}}"]
    return "\n".join([*lines, r"\end{table}", ""])


def latex_pieces(view: View) -> list[list[int]]:
    """Return the columns of each piece; each piece begins with the first one, which names the rows.

    A table whose rows its first column does not tell apart stays whole.
    """
    texts = [[*name.split(", ", 1), *"\n".join(cells).split("\n")]
             for name, cells in view.frame.items()]  # fmt: skip
    widths = [max(map(len, lines)) for lines in texts]
    whole = sum(widths) + 2 * len(widths)
    if whole <= LATEX_LETTERS or view.frame.iloc[:, 0].duplicated().any():
        return [list(range(len(widths)))]
    room = LATEX_LETTERS - widths[0]
    number = -(-(whole - widths[0]) // max(room, 1))
    others = np.array_split(np.arange(1, len(widths)), min(number, len(widths) - 1))
    return [[0, *map(int, part)] for part in others]


def latex_words(text: str) -> str:
    r"""Return text with what is special to LaTeX written out.

    Example:
        >>> print(latex_words("95 % of cases_1: -0.5"))
        95~\% of cases\_1: $-$0.5
    """
    line = " ".join(text.split())  # an empty line would end the argument that it stands in
    escaped = "".join(LATEX.get(letter, letter) for letter in line).replace(r" \%", r"~\%")
    minus = re.sub(r"(?<![\w-])-(?=\d)|(?<= )-(?= )", "$-$", escaped).replace("--", "-{}-")
    return re.sub(r"(^|, )(?=[\[*])", r"\1{}", minus)  # else an argument of the \\ before it


def csv_text(analyses: Sequence[Analysis]) -> str:
    """Return every number, one row a table, measure and loss, with the runs it comes from."""
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
