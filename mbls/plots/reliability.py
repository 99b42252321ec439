"""Reliability diagrams: accuracy against confidence."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from mbls.metrics.bins import CalibrationBins
from mbls.metrics.bootstrap import LEVEL, drawn_tables, patient_weights
from mbls.metrics.calibration import expected_error
from mbls.plots.style import (
    BLACK,
    BLUE,
    GRAY,
    HATCHED,
    ORANGE,
    caption,
    channel_titles,
    error_label,
    panels,
    small,
    square,
)

BAND_DRAWS = 1000
HEIGHTS = (3, 1)  # of a diagram and of the counts below it
GAP: dict[str, Any] = {"facecolor": to_rgba(ORANGE, 0.25), **HATCHED}


def reliability_figure(
    bins: CalibrationBins,
    *,
    meta: Mapping[str, Any],
    region: str = "all",
    n_bins: int = 15,
    patients: Sequence[str] | None = None,
) -> Figure:
    """Draw accuracy against confidence for the top label, each class and each union.

    Bars show the share of hits in each bin; the hatched part is the gap to the bin's mean
    confidence. For a calibrated model the bars end on the diagonal. The number of voxels per bin is
    shown below on a logarithmic axis.

    Args:
        bins: The histogram; cases are pooled.
        meta: ``dataset``, ``origin`` and ``class_names``.
        region: Region of the voxels.
        n_bins: A divisor of 60.
        patients: Patient of each case; adds 95 % bootstrap intervals over patients.
    """
    count, hits, confidence = bins.pool().table(region, n_bins)[:, 0]
    band = None
    if patients is not None and len(set(patients)) > 1:
        band = share_interval(bins, patients, region=region, n_bins=n_bins)
    names = channel_titles(bins, meta)
    figure, grid, columns = panels(len(names), heights=HEIGHTS, shape=1.45)
    top = 10 ** np.ceil(np.log10(max(10.0, count.max())))
    for position, name in enumerate(names):
        row, column = divmod(position, columns)
        axes = figure.add_subplot(grid[2 * row, column])
        below = figure.add_subplot(grid[2 * row + 1, column], sharex=axes)
        _bars(axes, count[position], hits[position], confidence[position], name)
        if band is not None:
            _band(axes, band[:, position])
        _counts(below, count[position], top)
        if column == 0:
            small(axes, y="share of hits")
            small(below, y="voxels")
    legend = "Hatched: gap from the share of hits to the mean confidence."
    if band is not None:
        legend += " Lines: 95 % intervals over patients."
    cases = None if bins.pooled else len(bins.cells)
    about: dict[str, Any] = {"region": region, "pooling": "pooled", "n_bins": n_bins}
    caption(figure, meta, cases=cases, legend=legend, **about)
    _legend(figure, columns, band=band is not None)
    square(figure, figure.axes[0], bands=-(-len(names) // columns), heights=HEIGHTS)
    return figure


def share_interval(
    bins: CalibrationBins, patients: Sequence[str], *, region: str, n_bins: int
) -> np.ndarray:
    """Return the percentile interval of each bin's share of hits, ``(2, channels, n_bins)``.

    Args:
        bins: Histogram per case.
        patients: Patient of each case, the resampling unit.
        region: Region of the voxels.
        n_bins: A divisor of 60.
    """
    weights = patient_weights(patients, draws=BAND_DRAWS)
    blocks = drawn_tables(bins, weights, region, n_bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.concatenate([hits / count for count, hits, _ in blocks])
    low, high = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    known = ~np.isnan(shares).all(0)
    limits = np.full((2, *shares.shape[1:]), np.nan)
    limits[:, known] = np.nanquantile(shares[:, known], [low, high], axis=0)
    return limits


def _bars(
    axes: Axes, count: np.ndarray, hits: np.ndarray, confidence: np.ndarray, name: str
) -> None:
    n_bins = len(count)
    filled = count > 0
    left = np.arange(n_bins)[filled] / n_bins
    mean = (confidence[filled] / count[filled]).clip(0, 1)
    share = hits[filled] / count[filled]
    bar: dict[str, Any] = {"width": 1 / n_bins, "align": "edge"}
    axes.bar(left, share, color=BLUE, edgecolor="white", linewidth=0.4, label="hits", **bar)
    axes.bar(left, mean - share, bottom=share, label="gap", **bar, **GAP)
    axes.plot([0, 1], [0, 1], color=GRAY, linewidth=0.8, linestyle="--")
    error = float(expected_error(count, hits, confidence))
    axes.set_title(f"{name}\n{error_label(error)}", fontsize=8)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.tick_params(labelsize=7, labelbottom=False)


def _legend(figure: Figure, columns: int, *, band: bool) -> None:
    """Add a legend of the bars and gaps."""
    hits = Patch(color=BLUE)
    over, under = (Patch(**GAP) for _ in range(2))
    marks: dict[str, Any] = {
        "share of hits": hits,
        "overconfident: fewer hits than confidence": over,
        "underconfident: more hits than confidence": (Patch(color=BLUE), under),
    }
    if band:
        marks["95 % interval over patients"] = Line2D([], [], color=BLACK, linewidth=1)
    figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=min(columns, 2),
                  fontsize=7, frameon=False)  # fmt: skip


def _band(axes: Axes, limits: np.ndarray) -> None:
    n_bins = limits.shape[1]
    middle = (np.arange(n_bins) + 0.5) / n_bins
    lines = axes.vlines(middle, *limits, color=BLACK, linewidth=1.0, label="interval")
    lines.set_path_effects([withStroke(linewidth=2.2, foreground="white")])  # visible on any bar


def _counts(axes: Axes, count: np.ndarray, top: float) -> None:
    n_bins = len(count)
    axes.bar(np.arange(n_bins) / n_bins, count, width=1 / n_bins, align="edge", color=GRAY)
    axes.set_yscale("log")
    axes.set(ylim=(0.5, top))
    small(axes, x="confidence")
