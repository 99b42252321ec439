"""A report's tables as Markdown, LaTeX (booktabs) and CSV."""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

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


def markdown_text(views: Sequence[View]) -> str:
    """Return the tables as Markdown, each below its title and above its caption."""
    return "\n".join(_markdown(view) for view in views)


def _markdown(view: View) -> str:
    rows = [_markdown_row(view.columns), "|" + " --- |" + " ---: |" * (len(view.columns) - 1)]
    for row in view.rows:
        rows.append(_markdown_row([_markdown_words(entry) for entry in row]))
    return (
        f"### {view.title}\n\n" + "\n".join(rows) + f"\n\n{view.caption} {' '.join(view.legend)}\n"
    )


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _markdown_words(entry: Entry) -> str:
    text = f"**{entry.text}**" if entry.best else entry.text
    text += " †" if entry.tied else ""
    return f"{text}<br>{entry.below}" if entry.below else text


def latex_text(views: Sequence[View]) -> str:
    r"""Return the tables as LaTeX for ``\usepackage{booktabs}``, floats of their own."""
    head = "% needs \\usepackage{booktabs}; UTF-8\n"
    return head + "\n".join(_latex(view, number) for number, view in enumerate(views, 1))


def _latex(view: View, number: int) -> str:
    text = " ".join([f"{view.title}.", view.caption, *view.legend])
    lines = [r"\begin{table}", r"  \centering\footnotesize"]
    lines += [f"  \\caption{{{latex_words(text)}}}"]
    lines += [f"  \\label{{tab:mbls-{number}}}"]
    lines += [f"  \\begin{{tabular}}{{l{'r' * (len(view.columns) - 1)}}}", r"    \toprule"]
    lines += ["    " + " & ".join(map(latex_words, view.columns)) + r" \\", r"    \midrule"]
    for row in view.rows:
        lines.append("    " + " & ".join(_latex_entry(entry) for entry in row) + r" \\")
        if any(entry.below for entry in row):
            below = " & ".join(
                f"{{\\scriptsize {latex_words(e.below)}}}" if e.below else "" for e in row
            )
            lines.append(f"    {below} \\\\")
    lines += [r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def latex_words(text: str) -> str:
    r"""Return text with what is special to LaTeX written out.

    Example:
        >>> print(latex_words("95 % of cases_1"))
        95 \% of cases\_1
    """
    return "".join(LATEX.get(letter, letter) for letter in text)


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
                    facts = [str(analysis.group.facts[f]) for f in CSV_FACTS]
                    seeds = " ".join(map(str, arm.seeds))
                    runs = ";".join(str(run.folder) for run in arm.runs)
                    each = " ".join(map(repr, cell.by_seed))
                    row = [number, *facts, *where, arm.name, len(arm.seeds), seeds]
                    row += ["" if math.isnan(v) else repr(float(v)) for v in values]
                    writer.writerow([*row, *marks, each, runs])
    return text.getvalue()


CSV_FACTS = ("dataset", "origin", "data fingerprint", "test cases", "grid", "bins", "test")
CSV_COLUMNS = (
    *("group", *(fact.replace(" ", "_") for fact in CSV_FACTS)),
    *("protocol", "region", "pooling", "measure", "loss", "n_seeds", "seeds"),
    *("mean", "sd_over_seeds", "low_over_patients", "high_over_patients"),
    *("low_over_patients_and_seeds", "high_over_patients_and_seeds"),
    *("best", "not_distinguishable_from_best", "value_of_each_seed", "run_folders"),
)
