"""How much volume a small missed share costs, by thresholds and by margins."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from mbls.plots.across import across_figure, style_of
from mbls.plots.style import BLACK, INCHES, small

__all__ = ["guarantee_figure"]

LARGEST = 4.0  # times the true volume
_PANEL = 2.2
"""Height of a row of panels, in inches."""


def guarantee_figure(
    curves: Mapping[str, Mapping[str, np.ndarray]],
    chosen: Mapping[str, Mapping[str, tuple[float, float]]],
    *,
    bound: float,
    axis: str,
    caption: Sequence[str],
) -> Figure:
    """Draw a panel per structure.

    Args:
        curves: By structure (at least one) and family, volume divided by the true one and risk
            ``(masks, 2)``.
        chosen: By structure and family, the same of the promised outer mask.
        bound: Of the risk.
        axis: What the risk is.
        caption: Lines about the data and computation.
    """
    columns = min(len(curves), 3)
    bands = -(-len(curves) // columns)
    wide = INCHES if columns > 1 else 0.6 * INCHES
    legend = (
        "Line: nested masks on the test patients; large mark: the outer mask that is promised, "
        f"calibrated on other patients, at the right edge beyond {LARGEST:g} times the volume; "
        "horizontal: the bound."
    )
    figure = across_figure([*caption, legend], height=_PANEL * bands + 0.25, width=wide)
    grid = figure.subplots(bands, columns, squeeze=False, sharey=True)
    for place, (name, families) in enumerate(curves.items()):
        axes = grid.flat[place]
        axes.axhline(bound, color=BLACK, linewidth=0.9)
        for number, (family, curve) in enumerate(families.items()):
            color, mark = style_of(number)
            axes.plot(*curve.T, color=color, linewidth=1.1, label=f"by a {family}")
            if family in chosen[name]:
                x, y = chosen[name][family]
                axes.plot(min(x, LARGEST), y, mark, color=color, markersize=6, clip_on=False,
                          markeredgewidth=0.5, markeredgecolor="white")  # fmt: skip
        axes.set(xlim=(0, LARGEST), ylim=(-0.02, 1.02))
        axes.set_title(name, fontsize=8)
        axes.grid(linewidth=0.3)
        small(axes, x="volume / true volume", **({"y": axis} if place % columns == 0 else {}))
    for axes in grid.flat[len(curves) :]:
        axes.set_axis_off()
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    return figure
