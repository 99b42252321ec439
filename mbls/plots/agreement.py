"""Agreement of volumes, and of what follows from them, with those of the labels."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from mbls.plots.across import across_figure, style_of
from mbls.plots.style import BLACK, INCHES, small

__all__ = ["agreement_figure"]

LIMIT = 1.96  # standard deviations, within which 95 % of normal differences are
_PANEL = 2.2
"""Height of a row of panels, in inches."""


def agreement_figure(
    estimates: Mapping[str, Mapping[str, np.ndarray]],
    truth: Mapping[str, np.ndarray],
    *,
    caption: Sequence[str],
) -> Figure:
    """Draw a panel per quantity (Bland and Altman 1986).

    Args:
        estimates: By quantity, with its unit in the name, and estimate ``(rows,)``.
        truth: The label's value by quantity ``(rows,)``.
        caption: Lines about the data and computation.
    """
    columns = min(len(truth), 3)
    bands = -(-len(truth) // columns)
    wide = INCHES if columns > 1 else 0.6 * INCHES
    legend = (
        "Dots: cases (of a derived quantity patients), the difference from the label over the "
        "mean of both; solid: mean difference; dashed: limits of agreement, 1.96 standard "
        "deviations around it."
    )
    figure = across_figure([*caption, legend], height=_PANEL * bands + 0.25, width=wide)
    grid = figure.subplots(bands, columns, squeeze=False)
    for place, (name, value) in enumerate(truth.items()):
        axes = grid.flat[place]
        axes.axhline(0, color=BLACK, linewidth=0.6)
        for number, (which, estimate) in enumerate(estimates[name].items()):
            color, mark = style_of(number)
            difference = estimate - value
            axes.plot((estimate + value) / 2, difference, mark, color=color, markersize=3.5,
                      markeredgewidth=0.3, markeredgecolor="white", label=which)  # fmt: skip
            kept = difference[np.isfinite(difference)]
            if len(kept) > 1:
                bias, spread = float(kept.mean()), float(kept.std(ddof=1))
                axes.axhline(bias, color=color, linewidth=1.0)
                for side in (-LIMIT, LIMIT):
                    axes.axhline(bias + side * spread, color=color, linewidth=0.9, linestyle="--")
        axes.set_title(name, fontsize=8)
        axes.grid(linewidth=0.3)
        small(axes, x="mean of both", **({"y": "difference"} if place % columns == 0 else {}))
    for axes in grid.flat[len(truth) :]:
        axes.set_axis_off()
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    return figure
