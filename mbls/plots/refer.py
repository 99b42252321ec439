"""Risk over coverage, and the confidence of each case against its Dice."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mbls.plots.across import across_figure
from mbls.plots.style import BLACK, BLUE, GRAY, ORANGE, PALETTE, small

__all__ = ["refer_figure"]

LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)))


class Ordered(Protocol):
    """A risk-coverage curve; see :class:`mbls.decisions.refer.Referral`."""

    @property
    def coverage(self) -> np.ndarray: ...
    @property
    def risk(self) -> np.ndarray: ...
    @property
    def low(self) -> np.ndarray: ...
    @property
    def high(self) -> np.ndarray: ...
    @property
    def random(self) -> float: ...
    @property
    def ideal(self) -> np.ndarray: ...


def refer_figure(
    curves: Mapping[str, Ordered],
    *,
    chosen: str,
    confidence: np.ndarray,
    dice: np.ndarray,
    referred: np.ndarray,
    level: float | None,
    caption: Sequence[str],
) -> Figure:
    """Draw the curves of all measures of confidence, and the cases by one of them.

    Args:
        curves: By name; at least that which is ``chosen``.
        chosen: The name of the measure whose interval and cases are drawn.
        confidence: Its value of each case ``(cases,)``.
        dice: Dice of each case ``(cases,)``; NaN is left out.
        referred: True for a case below the level ``(cases,)``.
        level: The level, if there is one for all cases.
        caption: Lines about the data and computation.
    """
    legend = f"Band: 95 % interval over patients of {chosen}. Tied cases count with their mean."
    diagonal = confidence.min() >= 0 and confidence.max() <= 1  # not entropies
    legend += " Dotted: as confident as right." if diagonal else ""
    figure = across_figure([*caption, legend], height=2.9)
    left, right = figure.subplots(1, 2)
    _curves(left, curves, chosen)
    known = ~np.isnan(dice)
    for mask, color, mark, name in (
        (known & ~referred, BLUE, "o", "accepted"),
        (known & referred, ORANGE, "^", "referred"),
    ):
        right.plot(confidence[mask], dice[mask], mark, color=color, markersize=4, label=name,
                   markeredgecolor="white", markeredgewidth=0.4)  # fmt: skip
    if level is not None:
        right.axvline(level, color=BLACK, linewidth=0.9, label="level of other patients")
    if diagonal:
        right.axline((0, 0), slope=1, color=GRAY, linewidth=0.6, linestyle=":")
    right.set(ylim=(-0.02, 1.02))
    spread = max(float(np.ptp(confidence)), 1e-3)
    right.set_xlim(confidence.min() - 0.05 * spread, confidence.max() + 0.05 * spread)
    right.legend(fontsize=6, frameon=False)
    small(right, x=f"{chosen} of a case", y="Dice, mean of the labeled classes")
    return figure


def _curves(axes: Axes, curves: Mapping[str, Ordered], chosen: str) -> None:
    own = curves[chosen]
    axes.fill_between(own.coverage, own.low, own.high, color=PALETTE[0], alpha=0.18, linewidth=0)
    ordered = {chosen: own} | dict(curves)
    for place, (name, curve) in enumerate(ordered.items()):
        axes.plot(curve.coverage, curve.risk, linestyle=LINES[place % len(LINES)], linewidth=1.2,
                  color=PALETTE[place % len(PALETTE)], label=name)  # fmt: skip
    axes.axhline(own.random, color=GRAY, linewidth=0.8, linestyle="--", label="random order")
    axes.plot(own.coverage, own.ideal, color=BLACK, linewidth=0.8, label="ideal order")
    axes.set(xlim=(0, 1), ylim=(0, None))
    axes.grid(linewidth=0.3)
    axes.legend(fontsize=6, frameon=False)
    small(axes, x="coverage: share of accepted cases", y="risk of these: mean of 1 - Dice")
