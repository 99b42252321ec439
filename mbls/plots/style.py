"""Colors, captions and files of all figures: legible in print, color-blind safe."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from mbls.metrics.bins import CalibrationBins
from mbls.plots.labels import data_label, region_label, run_labels

# Okabe and Ito's palette; elements of equal color differ in line style or marker.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BLUE, ORANGE, GRAY, BLACK = PALETTE[0], PALETTE[1], "#555555", "#000000"
HATCHED: dict[str, Any] = {"edgecolor": ORANGE, "hatch": "////", "linewidth": 0.6}
INCHES = 7.1
"""Text width of a page: at this size fonts keep their 7 and 8 points."""
_MARGIN = 0.5
_LETTERS = 16  # per inch at 8 points


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure with constrained layout; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def channel_titles(bins: CalibrationBins, meta: Mapping[str, Any]) -> list[str]:
    """Return a title for each channel: the top label, the classes, the unions."""
    return ["top label", *meta["class_names"], *bins.channels[1 + bins.num_classes :]]


def panels(number: int, *, heights: Sequence[float], shape: float) -> tuple[Figure, GridSpec, int]:
    """Return a figure for ``number`` panels of stacked axes, its grid and its number of columns.

    Args:
        number: Number of panels; three per row, from ten on four.
        heights: Relative heights of the axes of one panel.
        shape: Ratio of a panel's height to its width.
    """
    columns = {1: 1, 2: 2, 4: 2}.get(number, 3 if number < 10 else 4)
    bands = -(-number // columns)
    wide = (INCHES - _MARGIN) / max(columns, 3)
    size = (wide * columns + _MARGIN, wide * shape * bands + 0.75)
    figure = new_figure(*size)
    grid = figure.add_gridspec(len(heights) * bands, columns, height_ratios=[*heights] * bands)
    return figure, grid, columns


def caption(
    figure: Figure,
    meta: Mapping[str, Any],
    *,
    cases: int | None,
    region: str,
    pooling: str,
    n_bins: int,
    legend: str,
) -> None:
    """Write the data, computation and legend of a figure above it; mark synthetic data.

    Args:
        figure: The figure.
        meta: ``dataset`` and ``origin``; optionally ``network``, ``loss`` and ``seed``.
        cases: Number of cases, if known.
        region: Name or description of the region.
        pooling: How cases are pooled.
        n_bins: Number of bins.
        legend: Explanation of the marks.
    """
    of = data_label(meta) + (f", {cases} cases" if cases else "")
    where = region_label(region).capitalize()
    how = f"{where}, {pooling}. Protocol sound, {n_bins} right-closed bins. {legend}"
    write_caption(figure, [" · ".join([of, *run_labels(meta)]), how])


def write_caption(figure: Figure, lines: Sequence[str]) -> None:
    """Write lines above a figure, wrapped to its width."""
    width = int(figure.get_figwidth() * _LETTERS)
    text = "\n".join(textwrap.fill(line, width) for line in lines)
    figure.suptitle(text, fontsize=8, x=0.01, ha="left")


def remove_caption(figure: Figure) -> str:
    """Remove and return a figure's caption, for a page with its own captions.

    The mark of a phantom stays. The panels keep their size.
    """
    text = figure.get_suptitle()
    figure.draw_without_rendering()
    before = _caption_height(figure)
    write_caption(figure, ["PHANTOM, synthetic data"] if "PHANTOM" in text else [])
    figure.set_figheight(figure.get_figheight() - before + _caption_height(figure))
    return text


def _caption_height(figure: Figure) -> float:
    """Return the height of the caption and its padding under constrained layout, in inches."""
    if not figure.get_suptitle():
        return 0.0
    text, engine = figure._suptitle, figure.get_layout_engine()  # type: ignore[attr-defined]
    pad = engine.get()["h_pad"] if engine is not None else 0.0
    return float(text.get_window_extent().height / figure.dpi + 2 * pad)


def square(figure: Figure, axes: Axes, *, bands: int, heights: Sequence[float] = (1,)) -> None:
    """Set a figure's height such that ``axes`` is square; call it last.

    ``aspect="equal"`` would make panels narrower than the axes below them, and constrained layout
    does not account for it.

    Args:
        figure: A figure with constrained layout.
        axes: One of the axes to be square.
        bands: Number of rows of such axes.
        heights: Relative heights of the axes in a row; the square ones are first.
    """
    figure.draw_without_rendering()
    box = axes.get_window_extent()
    lacks = bands * (box.width - box.height) * sum(heights) / heights[0]
    figure.set_figheight(figure.get_figheight() + lacks / figure.dpi)


def error_label(error: float) -> str:
    """Return an ECE as a line of a title; without voxels it is undefined."""
    return "no voxels" if np.isnan(error) else f"ECE {error:.4f}"


def small(axes: Axes, **labels: str) -> None:
    """Set small tick labels and axis labels."""
    axes.tick_params(labelsize=7)
    axes.yaxis.get_offset_text().set_fontsize(7)
    if "x" in labels:
        axes.set_xlabel(labels["x"], fontsize=8)
    if "y" in labels:
        axes.set_ylabel(labels["y"], fontsize=8)


def save_figure(figure: Figure, stem: Path) -> None:
    """Write ``<stem>.png`` (300 dpi) and ``<stem>.pdf``, without dates.

    The layout is computed once for both files.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    figure.savefig(stem.with_suffix(".png"), dpi=300, metadata={"Software": None})
    figure.savefig(stem.with_suffix(".pdf"), metadata={"CreationDate": None})
