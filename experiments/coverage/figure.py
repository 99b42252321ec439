"""The figure of the coverage over worlds."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mbls.plots.across import across_figure, name_rows, style_of
from mbls.plots.style import BLACK, small

__all__ = ["coverage_figure"]


def coverage_figure(table: pd.DataFrame, note: str) -> Figure:
    """Draw what is missed over what is promised: a column an annotator, a row a promise.

    Args:
        table: The rows of :func:`experiments.coverage.__main__.simulate`.
        note: About the data.
    """
    annotators = list(dict.fromkeys(table.annotator))
    names = list(dict.fromkeys(_kinds(table)))
    legend = (
        "Marks: mean over worlds for each structure, colors the probabilities; line: the bound. "
        "Whoever calibrates draws like the phantom's annotator, whoever is tested as stated above."
    )
    figure = across_figure([note, legend], height=0.24 * len(names) + 0.9)
    grid = figure.subplots(1, len(annotators), sharey=True, squeeze=False)[0]
    qualities = list(dict.fromkeys(table.probabilities))
    for axes, annotator in zip(grid, annotators, strict=True):
        part = table[table.annotator == annotator]
        axes.axvline(0.1, color=BLACK, linewidth=0.9)
        for q, quality in enumerate(qualities):
            color, mark = style_of(q)
            own = part[part.probabilities == quality]
            rows = np.array([names.index(kind) for kind in _kinds(own)], dtype=float)
            rows += (q - (len(qualities) - 1) / 2) * 0.16
            axes.plot(own.share, rows, mark, color=color, markersize=3.5, label=quality,
                      markeredgewidth=0.3, markeredgecolor="white")  # fmt: skip
        axes.set_title(annotator, fontsize=8)
        axes.set_xlim(left=0)
        axes.grid(axis="x", linewidth=0.3)
        name_rows(axes, names)
        small(axes, x="share missed, or outside")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=7,
                  frameon=False)  # fmt: skip
    return figure


def _kinds(table: pd.DataFrame) -> Sequence[str]:
    words = {"mean": "mean share", "share above": "patients above 10 %"}
    found = []
    for what, how in zip(table.what, table.how, strict=True):
        first, _, kind = str(how).partition(", ")
        found.append(f"{what}, {first}: {words[kind]}" if kind in words else f"{what}: patients")
    return found
