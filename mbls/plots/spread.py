"""Reliability histogram over cases: how reliability differs between cases."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure

from mbls.metrics.bins import CalibrationBins
from mbls.plots.style import GRAY, ORANGE, caption, channel_titles, panels, small, square

ROWS = 20
_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
# the lightest blue is still visible on white paper
_COLORS = LinearSegmentedColormap.from_list("cases", ["#c6dbef", "#6baed6", "#08306b"])


def spread_figure(
    bins: CalibrationBins, *, meta: Mapping[str, Any], region: str = "all", n_bins: int = 15
) -> Figure:
    """Draw the number of cases by share of hits and bin of confidence.

    Darker cells have more cases; the line is the share over all cases together. Calibrated cases
    are on the diagonal. A wide column is a confidence whose meaning differs between patients.

    Args:
        bins: Histogram per case.
        meta: ``dataset``, ``origin`` and ``class_names``.
        region: Region of the voxels.
        n_bins: A divisor of 60.

    Raises:
        ValueError: The histogram is pooled over cases.
    """
    if bins.pooled:
        raise ValueError(
            "bins must have one histogram per case (num_cases), got a histogram pooled over cases."
        )
    names = channel_titles(bins, meta)
    figure, grid, columns = panels(len(names), heights=(1,), shape=1.15)
    each = bins.table(region, n_bins)[:2]
    together = bins.pool().table(region, n_bins)[:2, 0]
    counts = [case_counts(*each[:, :, k]) for k in range(len(names))]
    top = max(2.0, max(c.max() for c in counts))
    drawn = []
    for position, name in enumerate(names):
        row, column = divmod(position, columns)
        axes = figure.add_subplot(grid[row, column])
        drawn.append(axes)
        image = axes.pcolormesh(
            np.linspace(0, 1, n_bins + 1),
            np.linspace(0, 1, ROWS + 1),
            np.ma.masked_equal(counts[position], 0),
            cmap=_COLORS,
            norm=LogNorm(1, top),
            rasterized=True,
        )
        _line(axes, *together[:, position])
        axes.set_title(name, fontsize=8)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        small(axes, x="confidence", **({"y": "share of hits"} if column == 0 else {}))
    bar = figure.colorbar(image, ax=drawn, shrink=0.6, pad=0.01, aspect=30)
    ticks = [tick for tick in _TICKS if tick <= top]
    bar.set_ticks(ticks, labels=[str(tick) for tick in ticks], minor=False)
    bar.minorticks_off()
    bar.ax.tick_params(labelsize=7)
    bar.set_label("cases", fontsize=8)
    legend = "Color: number of cases with that share of hits. Line: all cases together."
    about: dict[str, Any] = {"region": region, "pooling": "case by case", "n_bins": n_bins}
    caption(figure, meta, cases=len(bins.cells), legend=legend, **about)
    square(figure, drawn[0], bands=-(-len(names) // columns))
    return figure


def case_counts(count: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """Return the number of cases by share of hits and bin, ``(20, n_bins)``.

    Args:
        count: Voxels ``(cases, n_bins)``; a case counts in every bin that has voxels.
        hits: Hits ``(cases, n_bins)``.
    """
    _, place = np.nonzero(count > 0)
    share = hits[count > 0] / count[count > 0]
    row = np.minimum((share * ROWS).astype(int), ROWS - 1)
    counts = np.zeros((ROWS, count.shape[1]))
    np.add.at(counts, (row, place), 1)
    return counts


def _line(axes: Axes, count: np.ndarray, hits: np.ndarray) -> None:
    filled = count > 0
    middle = (np.arange(len(count)) + 0.5) / len(count)
    axes.plot([0, 1], [0, 1], color=GRAY, linewidth=0.8, linestyle="--")
    share = hits[filled] / count[filled]
    axes.plot(middle[filled], share, "o-", color=ORANGE, markersize=2.5, linewidth=1.0)
