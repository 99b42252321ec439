"""Colors, captions and files that all figures share: legible in print, color-blind safe."""

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
from mbls.plots.words import data_words, region_words, run_words

# Okabe and Ito's palette; lines of equal color differ in style, marks in shape.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BLUE, ORANGE, GREY, BLACK = PALETTE[0], PALETTE[1], "#555555", "#000000"
HATCHED: dict[str, Any] = {"edgecolor": ORANGE, "hatch": "////", "linewidth": 0.6}
INCHES = 7.1
"""The width of a page's text: printed there, letters keep their 7 and 8 points."""
_MARGIN = 0.5
_LETTERS = 16  # of 8 points to an inch


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure that lays itself out, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def channel_titles(bins: CalibrationBins, meta: Mapping[str, Any]) -> list[str]:
    """Return a title for each channel: the top label, the classes, the unions."""
    return ["top label", *meta["class_names"], *bins.channels[1 + bins.num_classes :]]


def panels(number: int, *, heights: Sequence[float], shape: float) -> tuple[Figure, GridSpec, int]:
    """Return a figure for ``number`` panels of stacked axes, its grid and its number of columns.

    Args:
        number: How many panels; from ten on four stand in a row, else three.
        heights: Relative heights of the axes of one panel.
        shape: Height of a panel over its width.
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
    """Write above a figure what it shows, of which data, and whether they are synthetic.

    Args:
        figure: Where to write.
        meta: ``dataset`` and ``origin``; ``network``, ``loss`` and ``seed`` are named if there.
        cases: How many, if known.
        region: A region's name, or words.
        pooling: How cases come together.
        n_bins: Number of bins.
        legend: What the marks are.
    """
    of = data_words(meta) + (f", {cases} cases" if cases else "")
    words = region_words(region).capitalize()
    how = f"{words}, {pooling}. Protocol sound, {n_bins} right-closed bins. {legend}"
    write_caption(figure, [" · ".join([of, *run_words(meta)]), how])


def write_caption(figure: Figure, lines: Sequence[str]) -> None:
    """Write lines above a figure, broken where they are wider than it."""
    width = int(figure.get_figwidth() * _LETTERS)
    text = "\n".join(textwrap.fill(line, width) for line in lines)
    figure.suptitle(text, fontsize=8, x=0.01, ha="left")


def remove_caption(figure: Figure) -> str:
    """Take a figure's caption off, for a page that has its own, and return the caption.

    What is left of it is that the data are a phantom, where they are. The panels keep their size.
    """
    text = figure.get_suptitle()
    figure.draw_without_rendering()
    before = _caption_room(figure)
    write_caption(figure, ["PHANTOM, synthetic data"] if "PHANTOM" in text else [])
    figure.set_figheight(figure.get_figheight() - before + _caption_room(figure))
    return text


def _caption_room(figure: Figure) -> float:
    """Return the inches that constrained layout keeps for the caption and the pads around it."""
    if not figure.get_suptitle():
        return 0.0
    text, engine = figure._suptitle, figure.get_layout_engine()  # type: ignore[attr-defined]
    pad = engine.get()["h_pad"] if engine is not None else 0.0
    return float(text.get_window_extent().height / figure.dpi + 2 * pad)


def square(figure: Figure, axes: Axes, *, bands: int, heights: Sequence[float] = (1,)) -> None:
    """Give a figure the height at which ``axes`` is as high as wide; call it last.

    ``aspect="equal"`` would make panels narrower than what stands below them, and its labels are
    more than the layout reckons with.

    Args:
        figure: Laid out by constrained layout.
        axes: One of those that are to be square.
        bands: How many of them stand above each other.
        heights: Relative heights of the axes of a band, of which they are the first.
    """
    figure.draw_without_rendering()
    box = axes.get_window_extent()
    lacks = bands * (box.width - box.height) * sum(heights) / heights[0]
    figure.set_figheight(figure.get_figheight() + lacks / figure.dpi)


def error_words(error: float) -> str:
    """Return a title's line for an ECE; without a voxel there is none."""
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
    """Write ``<stem>.png`` (300 dots an inch) and ``<stem>.pdf``, without a date in them.

    The figure is laid out once, for both files, and keeps its layout.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    figure.savefig(stem.with_suffix(".png"), dpi=300, metadata={"Software": None})
    figure.savefig(stem.with_suffix(".pdf"), metadata={"CreationDate": None})
