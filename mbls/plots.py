"""Reliability diagrams, legible in print and with colour-blind safe colours (Okabe and Ito)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mbls.metrics.bins import CalibrationBins
from mbls.metrics.calibration import expected_error

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#555555"
_REGION_WORDS = {
    "all": "all voxels",
    "label": "voxels labelled foreground",
    "union": "voxels labelled or predicted foreground",
}


def reliability_figure(
    bins: CalibrationBins, *, meta: Mapping[str, Any], region: str = "all", n_bins: int = 15
) -> Figure:
    """Draw accuracy against confidence for the top label, each class and each union.

    Bars show the share of hits in each bin; the hatched part is the gap to the mean confidence of
    the bin, which lies on the diagonal for a calibrated model. Below each diagram stands the number
    of voxels in each bin on a logarithmic axis.

    Args:
        bins: The histogram; its cases are pooled.
        meta: ``dataset``, ``origin`` and ``class_names``.
        region: Which voxels.
        n_bins: A divisor of 60.
    """
    pooled = bins.pool()
    count, hits, confidence = pooled.table(region, n_bins)[:, 0]
    names = ["top label", *meta["class_names"], *bins.channels[1 + bins.num_classes :]]
    columns = min(len(names), 5)
    bands = -(-len(names) // columns)
    figure = Figure(figsize=(2.1 * columns + 0.5, 3.1 * bands + 0.75), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2 * bands, columns, height_ratios=[3, 1] * bands)
    top = 10 ** np.ceil(np.log10(max(10.0, count.max())))
    for position, name in enumerate(names):
        row, column = divmod(position, columns)
        axes = figure.add_subplot(grid[2 * row, column])
        below = figure.add_subplot(grid[2 * row + 1, column], sharex=axes)
        _panel(axes, count[position], hits[position], confidence[position], name)
        _counts(below, count[position], top)
        if column == 0:
            axes.set_ylabel("share of hits", fontsize=8)
            below.set_ylabel("voxels", fontsize=8)
    figure.suptitle(_caption(bins, meta, region, n_bins), fontsize=8, x=0.01, ha="left")
    return figure


def save_figure(figure: Figure, stem: Path) -> None:
    """Write ``<stem>.png`` (200 dots an inch) and ``<stem>.pdf``, without a date in them."""
    figure.savefig(stem.with_suffix(".png"), dpi=200, metadata={"Software": None})
    figure.savefig(stem.with_suffix(".pdf"), metadata={"CreationDate": None})


def _panel(
    axes: Axes, count: np.ndarray, hits: np.ndarray, confidence: np.ndarray, name: str
) -> None:
    n_bins = len(count)
    filled = count > 0
    left = np.arange(n_bins)[filled] / n_bins
    mean = (confidence[filled] / count[filled]).clip(0, 1)
    share = hits[filled] / count[filled]
    width = 1 / n_bins
    axes.bar(
        left,
        share,
        color=BLUE,
        edgecolor="white",
        linewidth=0.4,
        label="hits",
        width=width,
        align="edge",
    )
    axes.bar(
        left,
        mean - share,
        bottom=share,
        facecolor=(*_rgb(ORANGE), 0.25),
        edgecolor=ORANGE,
        hatch="////",
        linewidth=0.6,
        label="gap",
        width=width,
        align="edge",
    )
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
    error = expected_error(count, hits, confidence)
    axes.set_title(f"{name}\nECE {error:.4f}", fontsize=8)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.tick_params(labelsize=7, labelbottom=False)


def _counts(axes: Axes, count: np.ndarray, top: float) -> None:
    n_bins = len(count)
    axes.bar(np.arange(n_bins) / n_bins, count, width=1 / n_bins, align="edge", color=GREY)
    axes.set_yscale("log")
    axes.set(ylim=(0.5, top))
    axes.set_xlabel("confidence", fontsize=8)
    axes.tick_params(labelsize=7)


def _caption(bins: CalibrationBins, meta: Mapping[str, Any], region: str, n_bins: int) -> str:
    origin = "PHANTOM, synthetic" if meta["origin"] == "phantom" else "real data"
    cases = "" if bins.pooled else f", {bins.cells.shape[0]} cases"
    return (
        f"{meta['dataset']} ({origin}){cases}. {_REGION_WORDS.get(region, region).capitalize()}, "
        f"pooled.\nProtocol sound, {n_bins} right-closed bins. Hatched: gap between hits and mean "
        "confidence."
    )


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue
