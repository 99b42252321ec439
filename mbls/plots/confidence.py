"""Histogram of confidences, separately for right and wrong voxels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mbls.metrics.bins import CalibrationBins
from mbls.plots.labels import region_label
from mbls.plots.style import BLACK, BLUE, HATCHED, caption, panels, small


def confidence_figure(
    bins: CalibrationBins, *, meta: Mapping[str, Any], n_bins: int = 15
) -> Figure:
    """Draw the top label's confidences in each region, separately for right and wrong voxels.

    Lines: mean confidence (solid) and accuracy (dotted), which are equal for a calibrated model.

    Args:
        bins: The histogram; cases are pooled.
        meta: ``dataset``, ``origin`` and ``class_names``.
        n_bins: A divisor of 60.
    """
    pooled = bins.pool()
    figure, grid, columns = panels(len(bins.regions), heights=(1,), shape=1.05)
    for position, region in enumerate(bins.regions):
        row, column = divmod(position, columns)
        axes = figure.add_subplot(grid[row, column])
        count, hits, confidence = pooled.table(region, n_bins)[:, 0, 0]
        axes.set_yscale("log")
        axes.set(xlim=(0, 1), ylim=(0.5, 10 ** np.ceil(np.log10(max(10.0, count.max())))))
        left, width = np.arange(n_bins) / n_bins, 1 / n_bins
        axes.bar(left, hits, width=width / 2, align="edge", color=BLUE, label="right")
        axes.bar(left + width / 2, count - hits, width=width / 2, align="edge", color="white",
                 label="wrong", **HATCHED)  # fmt: skip
        if count.sum():
            axes.axvline(confidence.sum() / count.sum(), color=BLACK, linewidth=1,
                         label="mean confidence")  # fmt: skip
            axes.axvline(hits.sum() / count.sum(), color=BLACK, linewidth=1, linestyle=":",
                         label="accuracy")  # fmt: skip
        title = region_label(region).capitalize().replace(" (", "\n(")
        axes.set_title(title, fontsize=8)
        small(axes, x="confidence of the top label", **({"y": "voxels"} if column == 0 else {}))
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    legend = "Numbers of voxels on a logarithmic scale."
    cases = None if bins.pooled else len(bins.cells)
    about: dict[str, Any] = {"region": "each region", "pooling": "pooled", "n_bins": n_bins}
    caption(figure, meta, cases=cases, legend=legend, **about)
    return figure
