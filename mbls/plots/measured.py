"""Measured and true calibration errors of several losses on a phantom."""

import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from mbls.plots.across import across_figure
from mbls.plots.style import BLUE, ORANGE, small

__all__ = ["measured_figure"]

Marked = tuple[float, float, float]


def measured_figure(
    values: Mapping[str, Mapping[str, tuple[Marked, Marked]]], *, caption: Sequence[str]
) -> Figure:
    """Draw a panel a measure, a row a loss: what was measured, and what is true.

    Args:
        values: By measure and loss the measured and the true ``(mean, low, high)``.
        caption: Of which data, and how computed.
    """
    names = list(next(iter(values.values())))
    legend = "Square: measured; bar: true, expected over the phantom's known label distribution. "
    legend += "Lines: 95 % intervals over patients."
    figure = across_figure([*caption, legend], height=0.6 + 0.28 * max(len(names), 2))
    grid = figure.subplots(1, len(values), squeeze=False, sharey=True)[0]
    for axes, (measure, by_loss) in zip(grid, values.items(), strict=True):
        for place, name in enumerate(names):
            (value, low, high), (true, true_low, true_high) = by_loss[name]
            axes.plot(value, place - 0.13, "s", color=BLUE, markersize=4)
            axes.hlines(place - 0.13, low, high, color=BLUE, linewidth=1.2)
            axes.plot(true, place + 0.13, "|", color=ORANGE, markersize=9, markeredgewidth=2)
            axes.hlines(place + 0.13, true_low, true_high, color=ORANGE, linewidth=1.2)
        axes.grid(axis="x", linewidth=0.3)
        axes.set_xlim(left=0)
        small(axes, x=textwrap.fill(measure, 24))
    grid[0].set(yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5))
    grid[0].set_yticklabels(names, fontsize=8)
    return figure
