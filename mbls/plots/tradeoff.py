"""Dice against a calibration error, with the Pareto front of losses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from mbls.plots.across import across_figure, style_of
from mbls.plots.style import GRAY, small

__all__ = ["Point", "pareto_front", "tradeoff_figure"]


@dataclass(frozen=True)
class Point:
    """Dice and error of a loss.

    Attributes:
        dice: Mean, lower and upper limit.
        error: Mean, lower and upper limit.
        seeds: ``(dice, error)`` of each seed.
    """

    dice: tuple[float, float, float]
    error: tuple[float, float, float]
    seeds: Sequence[tuple[float, float]]


def pareto_front(points: Mapping[str, Point]) -> list[str]:
    """Return the names of the Pareto-optimal points in order of decreasing Dice."""
    known = {n: p for n, p in points.items() if not np.isnan([p.dice[0], p.error[0]]).any()}
    front: list[str] = []
    for name in sorted(known, key=lambda n: (-known[n].dice[0], known[n].error[0])):
        if not front or known[name].error[0] < known[front[-1]].error[0]:
            front.append(name)
    return front


def tradeoff_figure(points: Mapping[str, Point], *, caption: Sequence[str], label: str) -> Figure:
    """Draw losses with intervals and seeds, and the Pareto front.

    Args:
        points: Points by loss.
        caption: Lines about the data and computation.
        label: Name of the error.
    """
    front = pareto_front(points)
    legend = "Large marks: means over seeds with 95 % intervals over patients; small: each seed."
    legend += " Dashed: the Pareto front."
    figure = across_figure([*caption, legend], height=3.6)
    axes = figure.add_subplot()
    axes.step(
        [points[n].dice[0] for n in front], [points[n].error[0] for n in front],
        where="post", color=GRAY, linewidth=1, linestyle="--", zorder=1,
    )  # fmt: skip
    for place, (name, point) in enumerate(points.items()):
        color, mark = style_of(place)
        (x, x_low, x_high), (y, y_low, y_high) = point.dice, point.error
        axes.hlines(y, x_low, x_high, color=color, linewidth=0.8, alpha=0.6)
        axes.vlines(x, y_low, y_high, color=color, linewidth=0.8, alpha=0.6)
        for seed in point.seeds:
            axes.plot(*seed, mark, color=color, markersize=3, alpha=0.5, zorder=2)
        axes.plot(x, y, mark, color=color, markersize=8, markeredgecolor="white",
                  label=f"{name} (front)" if name in front else name, zorder=3)  # fmt: skip
    axes.grid(linewidth=0.3)
    small(axes, x="Dice, mean of the foreground structures", y=label)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=7, frameon=False)
    return figure
