"""Dice, precision and recall of each structure over the threshold of its probability."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mbls.plots.across import across_figure
from mbls.plots.style import BLACK, INCHES, PALETTE, new_figure, small, write_caption

__all__ = ["thresholds_across_figure", "thresholds_figure"]

LINES = {"recall": (PALETTE[0], "-"), "precision": (PALETTE[1], "--"), "dice": (PALETTE[2], "-.")}
NAMES = {"recall": "recall", "precision": "precision", "dice": "Dice"}
_PANEL = 2.15
"""Height of a row of panels, in inches."""


class Band(Protocol):
    """A curve with its interval, one value a threshold; see :class:`mbls.decisions.Curve`."""

    @property
    def value(self) -> np.ndarray: ...
    @property
    def low(self) -> np.ndarray: ...
    @property
    def high(self) -> np.ndarray: ...


Curves = Mapping[str, Mapping[str, Band]]
"""By structure and measure."""


def thresholds_figure(
    curves: Curves,
    thresholds: np.ndarray,
    *,
    chosen: Mapping[str, float | None],
    argmax: Mapping[str, Mapping[str, float]],
    caption: Sequence[str],
) -> Figure:
    """Draw a panel per structure.

    Args:
        curves: By structure, of ``dice``, ``precision`` and ``recall``.
        thresholds: The threshold of each value of a curve.
        chosen: Threshold to mark, by structure.
        argmax: The measures of the predicted classes, by structure.
        caption: Lines about the data and computation.
    """
    columns = min(len(curves), 3)
    bands = -(-len(curves) // columns)
    wide = INCHES if columns > 1 else 0.6 * INCHES
    line = "Vertical line: the threshold that was chosen on other patients. "
    marked = line if any(value is not None for value in chosen.values()) else ""
    legend = f"Bands: 95 % intervals over patients. {marked}Marks at 1: predicted classes (argmax)."
    figure = across_figure([*caption, legend], height=_PANEL * bands + 0.25, width=wide)
    grid = figure.subplots(bands, columns, squeeze=False, sharey=True)
    for place, (name, measures) in enumerate(curves.items()):
        axes = grid.flat[place]
        _draw(axes, measures, thresholds)
        if (threshold := chosen.get(name)) is not None:
            axes.axvline(threshold, color=BLACK, linewidth=0.9)
        for measure, value in argmax.get(name, {}).items():
            axes.plot(1.0, value, "<", color=LINES[measure][0], markersize=5, clip_on=False,
                      markeredgecolor="white", markeredgewidth=0.4)  # fmt: skip
        axes.set_title(name, fontsize=8)
        small(axes, x="threshold", **({"y": "mean of the cases"} if place % columns == 0 else {}))
    for axes in grid.flat[len(curves) :]:
        axes.set_axis_off()
    _legend(figure, grid.flat[0])
    return figure


def thresholds_across_figure(
    runs: Mapping[str, Curves], thresholds: np.ndarray, *, caption: Sequence[str]
) -> Figure:
    """Draw the runs side by side, a row per structure, as in Yeung et al. (2023, DSC++).

    A run whose recall and precision change little over the thresholds has little to tailor.

    Args:
        runs: Curves of each run by its name; all of the same structures.
        thresholds: The threshold of each value of a curve.
        caption: Lines about the data and computation.
    """
    structures = list(next(iter(runs.values())))
    wide = max(INCHES, 1.7 * len(runs))
    figure = new_figure(wide, _PANEL * len(structures))
    write_caption(figure, [*caption, "Bands: 95 % intervals over patients."])
    figure.set_figheight(_PANEL * len(structures) + 0.16 * (len(caption) + 3))
    grid = figure.subplots(len(structures), len(runs), squeeze=False, sharex=True, sharey=True)
    for column, (name, curves) in enumerate(runs.items()):
        for row, structure in enumerate(structures):
            axes = grid[row, column]
            _draw(axes, curves[structure], thresholds)
            if row == 0:
                axes.set_title(name, fontsize=8)
            labels = {"y": structure} if column == 0 else {}
            small(axes, **labels, **({"x": "threshold"} if row == len(structures) - 1 else {}))
    _legend(figure, grid[0, 0])
    return figure


def _draw(axes: Axes, measures: Mapping[str, Band], thresholds: np.ndarray) -> None:
    for measure, (color, line) in LINES.items():
        curve = measures[measure]
        axes.fill_between(thresholds, curve.low, curve.high, color=color, alpha=0.18, linewidth=0)
        axes.plot(thresholds, curve.value, line, color=color, linewidth=1.2, label=NAMES[measure])
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "0.25", "0.5", "0.75", "1"])
    axes.grid(linewidth=0.3)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=7, frameon=False)
