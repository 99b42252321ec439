"""Reliability diagrams of several losses side by side."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from mbls.metrics.calibration import expected_error
from mbls.plots.across import across_figure, style_of
from mbls.plots.style import GRAY, INCHES, error_label, small, square

__all__ = ["side_by_side_figure"]


def side_by_side_figure(
    tables: Mapping[str, Sequence[np.ndarray]], *, caption: Sequence[str]
) -> Figure:
    """Draw a diagram per loss: lines for seeds, bars for all seeds together.

    Args:
        tables: By loss and seed ``(3, n_bins)``: voxels, hits and summed confidences.
        caption: Lines about the data and computation.
    """
    columns = min(4, len(tables))
    rows = -(-len(tables) // columns)
    legend = "Bars: share of hits, all seeds together; lines: mean confidence and share of hits of "
    legend += "each seed. ECE: mean over seeds, not corrected. Gray area: share of the "
    legend += "voxels in each bin (log scale)."
    width = INCHES * {1: 0.45, 2: 0.65}.get(columns, 1)
    figure = across_figure([*caption, legend], height=width / columns * 1.3 * rows, width=width)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(tables) :]:
        axes.set_visible(False)
    for place, (name, seeds) in enumerate(tables.items()):
        axes = grid.flat[place]
        color, _ = style_of(place)
        count, hits, _ = np.sum(seeds, axis=0)
        n_bins, filled = len(count), count > 0
        left = np.arange(n_bins) / n_bins
        share = np.log10(np.maximum(count, 1)) / max(np.log10(max(count.max(), 10)), 1)
        axes.bar(left, 0.25 * share, width=1 / n_bins, align="edge", color=GRAY, alpha=0.25,
                 linewidth=0, label="voxels")  # fmt: skip
        axes.bar(left[filled], hits[filled] / count[filled], width=1 / n_bins, align="edge",
                 color=color, alpha=0.35, linewidth=0)  # fmt: skip
        for one in seeds:
            n, h, c = one
            known = n > 0
            axes.plot(c[known] / n[known], h[known] / n[known], color=color, linewidth=1,
                      marker=".", markersize=2)  # fmt: skip
        axes.plot([0, 1], [0, 1], color=GRAY, linewidth=0.8, linestyle="--")
        error = expected_error(*np.stack(seeds, axis=1)).mean()
        axes.set_title(f"{textwrap.fill(name, 24)}\n{error_label(error)}", fontsize=8)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        last = place + columns >= len(tables)
        axes.tick_params(labelbottom=last)
        small(
            axes,
            **({"x": "confidence"} if last else {}),
            **({"y": "share of hits"} if place % columns == 0 else {}),
        )
    square(figure, grid[0, 0], bands=rows)
    return figure
