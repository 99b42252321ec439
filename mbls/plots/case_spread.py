"""Distribution of each loss's values over cases."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from mbls.plots.across import across_figure, name_rows, style_of
from mbls.plots.style import BLACK, small

__all__ = ["case_spread_figure"]


def case_spread_figure(
    values: Mapping[str, Mapping[str, np.ndarray]], *, caption: Sequence[str]
) -> Figure:
    """Draw a panel per measure and a row per loss: cases as dots, and a box plot.

    Args:
        values: By measure and loss ``(cases,)``, averaged over seeds; NaN is skipped.
        caption: Lines about the data and computation.
    """
    names = list(next(iter(values.values())))
    legend = "Dots: cases, each the mean over seeds; box: quartiles; bar: median."
    figure = across_figure([*caption, legend], height=0.5 + 0.32 * max(len(names), 2))
    grid = figure.subplots(1, len(values), squeeze=False, sharey=True)[0]
    rng = np.random.default_rng(0)
    for axes, (measure, by_loss) in zip(grid, values.items(), strict=True):
        for place, name in enumerate(names):
            known = by_loss[name][~np.isnan(by_loss[name])]
            if not known.size:
                continue
            color, _ = style_of(place)
            heights = place + rng.uniform(-0.22, 0.22, known.size)
            axes.plot(known, heights, ".", color=color, markersize=3, alpha=0.6)
            axes.boxplot(known, positions=[place], orientation="horizontal", widths=0.55,
                         showfliers=False, whis=(5, 95), medianprops={"color": BLACK},
                         boxprops={"linewidth": 0.7}, whiskerprops={"linewidth": 0.7},
                         capprops={"linewidth": 0.7}, manage_ticks=False)  # fmt: skip
        axes.grid(axis="x", linewidth=0.3)
        known, cases = max((~np.isnan(v)).sum() for v in by_loss.values()), len(by_loss[names[0]])
        some = f"\n{known} of {cases} cases have one" if known < cases else ""
        small(axes, x=textwrap.fill(measure, 28) + some)
    name_rows(grid[0], [textwrap.fill(name, 24) for name in names])
    return figure
