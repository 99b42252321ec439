"""True and measured calibration errors of a phantom, whose labels' distribution is known."""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mbls.metrics.catalog import shown_in
from mbls.plots.style import BLACK, BLUE, ORANGE, caption, panels, small
from mbls.plots.words import POOLING_WORDS, region_words

REGIONS = ("all", "label", "union")
POOLINGS = ("pooled", "per_case")
_REACH = 0.14


def truth_figure(metrics: Mapping[str, Any]) -> Figure:
    """Draw each measured error with its interval over patients beside the true one.

    Args:
        metrics: What a test run gave, as :func:`mbls.evaluation.write_results` returns it or as
            ``metrics.json`` holds it.

    Raises:
        ValueError: If the run has no true errors, because no posterior was known.
    """
    sound, meta = metrics["sound"], metrics["meta"]
    rows = [(r, p) for r in REGIONS if r in sound for p in POOLINGS]
    if not rows or any("true_ece" not in sound[r][p] for r, p in rows):
        raise ValueError("True errors need the labels' distribution, and this run knew none.")
    chosen = [m for m in shown_in("json") if m.true]
    figure, grid, columns = panels(len(chosen), heights=(1,), shape=1.4)
    for position, m in enumerate(chosen):
        row, column = divmod(position, columns)
        axes = figure.add_subplot(grid[row, column])
        for place, (region, pooling) in enumerate(rows):
            cells = sound[region][pooling]
            _mark(axes, cells[m.key], place - _REACH, "o", BLACK, "measured")
            if f"{m.key}_corrected" in cells:
                _mark(axes, cells[f"{m.key}_corrected"], place + _REACH, "s", BLUE, "corrected")
            if (true := cells[f"true_{m.key}"]["value"]) is not None:
                axes.plot(true, place, "|", color=ORANGE, markersize=16, markeredgewidth=1.6,
                          label="true", zorder=1)  # fmt: skip
        axes.set(ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)))
        names = [f"{textwrap.fill(region_words(r), 24)},\n{POOLING_WORDS[p]}" for r, p in rows]
        axes.set_yticklabels(names if column == 0 else [""] * len(rows))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.grid(axis="x", linewidth=0.3)
        axes.set_title(m.label, fontsize=8)
        if m.better is None:
            axes.axvline(0, color=BLACK, linewidth=0.6)
        else:
            axes.set_xlim(left=0)
        small(axes, x="error")
    marks = _legend(figure)
    figure.legend(marks.values(), marks.keys(), loc="outside lower right", ncols=3,
                  fontsize=7, frameon=False)  # fmt: skip
    legend = "Lines: 95 % intervals over patients. True: expected over the labels' distribution."
    about: dict[str, Any] = {"region": "each region", "pooling": "pooled and per case"}
    caption(figure, meta, cases=meta["n_cases"], n_bins=meta["n_bins"], legend=legend, **about)
    return figure


def _legend(figure: Figure) -> dict[str, Any]:
    """Return one artist for each mark's word."""
    pairs = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes]
    return {word: artist for found in pairs for artist, word in found}


def _mark(
    axes: Axes, cell: Mapping[str, Any], place: float, mark: str, colour: str, word: str
) -> None:
    if cell["value"] is None or np.isnan(cell["value"]):
        return
    axes.plot(cell["value"], place, mark, color=colour, markersize=3, label=word)
    if cell["low"] is not None:
        axes.hlines(place, cell["low"], cell["high"], color=colour, linewidth=1.2)
