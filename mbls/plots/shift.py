"""Measures of a test over the level of each corruption of its images."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mbls.plots.across import style_of
from mbls.plots.style import INCHES, new_figure, small, write_caption

__all__ = ["shift_figure"]

_PANEL = 1.65
"""Height of a row of panels, in inches."""


class Point(Protocol):
    """A test of corrupted images; see :class:`mbls.decisions.shift.Shifted`."""

    @property
    def line(self) -> str: ...
    @property
    def corruption(self) -> str: ...
    @property
    def level(self) -> int: ...
    @property
    def strength(self) -> float: ...
    @property
    def values(self) -> Mapping[str, tuple[float, float, float]]: ...


def shift_figure(
    points: Sequence[Point],
    *,
    measures: Mapping[str, str],
    units: Mapping[str, str],
    unordered: Sequence[str] = (),
    caption: Sequence[str],
) -> Figure:
    """Draw a column of panels per corruption and a row per measure.

    Args:
        points: Tests; those of level 0 are of images as they are.
        measures: Heading of each measure by its name; the rows.
        units: What a strength is, by corruption; the columns.
        unordered: Corruptions whose levels are no order, such as channels.
        caption: Lines about the data and computation.
    """
    legend = "At 0 the images as they are. Bars: 95 % intervals over patients."
    wide = max(INCHES, 1.5 * len(units))
    figure = new_figure(wide, _PANEL * len(measures))
    write_caption(figure, [*caption, legend])
    figure.set_figheight(_PANEL * len(measures) + 0.16 * (len(caption) + 3) + 0.3)
    grid = figure.subplots(len(measures), len(units), squeeze=False, sharey="row")
    lines = list(dict.fromkeys(point.line for point in points))
    for column, (corruption, unit) in enumerate(units.items()):
        for row, (measure, heading) in enumerate(measures.items()):
            axes = grid[row, column]
            for place, line in enumerate(lines):
                own = [p for p in points if p.line == line and p.corruption in ("", corruption)]
                _draw(axes, own, measure, place, joined=corruption not in unordered)
            axes.grid(linewidth=0.3)
            labels = {"y": heading} if column == 0 else {}
            last = row == len(measures) - 1
            small(axes, **labels, **({"x": unit} if last else {}))
            axes.xaxis.label.set_fontsize(7)
            axes.xaxis.label.set_wrap(True)
            if row == 0:
                axes.set_title(corruption, fontsize=8)
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(lines), 4),
                  fontsize=7, frameon=False)  # fmt: skip
    return figure


def _draw(axes: Axes, points: Sequence[Point], measure: str, place: int, *, joined: bool) -> None:
    color, mark = style_of(place)
    points = sorted((p for p in points if measure in p.values), key=lambda p: p.level)
    if not points:
        return
    x = np.array([float(p.level) for p in points])
    value, low, high = np.array([p.values[measure] for p in points]).T
    reach = np.nan_to_num(np.stack([value - low, high - value])).clip(0)
    axes.errorbar(
        x + 0.04 * place, value, yerr=reach, color=color, marker=mark, markersize=3.5,
        linewidth=1.1, elinewidth=0.7, linestyle="-" if joined else "none", label=points[0].line,
    )  # fmt: skip
    axes.set_xticks(x, labels=[f"{p.strength:g}" if p.level else "0" for p in points])
