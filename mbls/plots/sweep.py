"""Measures over the values of a loss's setting."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from mbls.plots.across import across_figure, style_of
from mbls.plots.style import small

__all__ = ["sweep_figure"]

Curve = Sequence[tuple[float, float, float, float, Sequence[float]]]


def sweep_figure(
    curves: Mapping[str, Mapping[str, Curve]], *, setting: str, caption: Sequence[str]
) -> Figure:
    """Draw a panel per measure over the values of one setting.

    Args:
        curves: By measure and loss: points ``(value, mean, low, high, seeds)``.
        setting: Name of the setting.
        caption: Lines about the data and computation.
    """
    legend = "Dots: each seed; line: mean; bars: 95 % intervals over patients."
    figure = across_figure([*caption, legend], height=2.4)
    grid = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (measure, by_loss) in zip(grid, curves.items(), strict=True):
        for place, (name, curve) in enumerate(by_loss.items()):
            color, mark = style_of(place)
            points = sorted(curve, key=lambda point: point[0])
            axes.plot([p[0] for p in points], [p[1] for p in points], color=color, marker=mark,
                      markersize=5, linewidth=1.2, label=name)  # fmt: skip
            for value, _, low, high, seeds in points:
                axes.vlines(value, low, high, color=color, linewidth=0.8, alpha=0.6)
                axes.plot([value] * len(seeds), seeds, ".", color=color, markersize=3, alpha=0.6)
        values = sorted({point[0] for curve in by_loss.values() for point in curve})
        if values[0] > 0 and values[-1] >= 20 * values[0]:
            axes.set_xscale("log")
        axes.set_xticks(values, labels=[f"{v:g}" for v in values])
        axes.minorticks_off()
        axes.grid(axis="y", linewidth=0.3)
        axes.set_title(measure, fontsize=8)
        small(axes, x=setting)
    if any(len(by_loss) > 1 for by_loss in curves.values()):
        grid[0].legend(fontsize=7, frameon=False)
    return figure
