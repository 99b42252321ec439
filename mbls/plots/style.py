"""Colours, captions and files that all figures share: legible in print, colour-blind safe."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from mbls.metrics.bins import CalibrationBins

# From the palette of Okabe and Ito.
BLUE, ORANGE, GREY, BLACK = "#0072B2", "#D55E00", "#555555", "#000000"
COLUMNS = 5
REGION_WORDS = {
    "all": "all voxels",
    "label": "voxels labelled foreground",
    "union": "voxels labelled or predicted foreground",
    "dilated": "voxels near labelled foreground",
    "boundary": "voxels near a change of label",
}


def channel_titles(bins: CalibrationBins, meta: Mapping[str, Any]) -> list[str]:
    """Return a title for each channel: the top label, the classes, the unions."""
    return ["top label", *meta["class_names"], *bins.channels[1 + bins.num_classes :]]


def panels(number: int, *, heights: Sequence[float], inches: float) -> tuple[Figure, GridSpec, int]:
    """Return a figure for ``number`` panels of stacked axes, its grid and its number of columns.

    Args:
        number: How many panels.
        heights: Relative heights of the axes of one panel.
        inches: Height of a panel.
    """
    columns = min(number, COLUMNS)
    bands = -(-number // columns)
    size = (2.1 * columns + 0.5, inches * bands + 0.75)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(heights) * bands, columns, height_ratios=[*heights] * bands)
    return figure, grid, columns


def caption(
    figure: Figure,
    bins: CalibrationBins,
    meta: Mapping[str, Any],
    *,
    region: str,
    pooling: str,
    n_bins: int,
    legend: str,
) -> None:
    """Write above a figure what it shows, of which data, and whether they are synthetic."""
    origin = "PHANTOM, synthetic" if meta["origin"] == "phantom" else "real data"
    cases = "" if bins.pooled else f", {bins.cells.shape[0]} cases"
    words = REGION_WORDS.get(region, region).capitalize()
    text = (
        f"{meta['dataset']} ({origin}){cases}. {words}, {pooling}.\n"
        f"Protocol sound, {n_bins} right-closed bins. {legend}"
    )
    figure.suptitle(text, fontsize=8, x=0.01, ha="left")


def small(axes: Axes, **labels: str) -> None:
    """Set small tick labels and axis labels."""
    axes.tick_params(labelsize=7)
    if "x" in labels:
        axes.set_xlabel(labels["x"], fontsize=8)
    if "y" in labels:
        axes.set_ylabel(labels["y"], fontsize=8)


def save_figure(figure: Figure, stem: Path) -> None:
    """Write ``<stem>.png`` (200 dots an inch) and ``<stem>.pdf``, without a date in them."""
    figure.savefig(stem.with_suffix(".png"), dpi=200, metadata={"Software": None})
    figure.savefig(stem.with_suffix(".pdf"), metadata={"CreationDate": None})
