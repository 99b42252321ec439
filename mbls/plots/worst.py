"""Figure of the worst cases: image, label, prediction, confidence and error."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mbls.plots.labels import data_label, run_labels, test_labels
from mbls.plots.style import INCHES, new_figure, write_caption
from mbls.plots.worst_cases import IGNORED, Picture

LETTERS = 110  # per line at 7 points
COLUMNS = ("image", "label", "prediction", "confidence", "error")
# Okabe and Ito's colors for the foreground classes, repeated if needed.
CLASSES = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#0072B2", "#D55E00")
LOWEST = "Cases with the lowest Dice (per case, mean of the foreground structures in its label)"
LEGEND = (
    "{}, each with the slice that has the most wrong voxels. Confidence: the highest probability "
    "of each voxel (all voxels, no bins). Error: wrong voxels, colored by confidence: bright is "
    "confident."
)


def worst_figure(
    pictures: Sequence[Picture],
    *,
    meta: Mapping[str, Any],
    names: Sequence[str] | None = None,
    scope: str | None = None,
    chosen: str = LOWEST,
) -> Figure:
    """Draw a row per case; errors are colored by their confidence.

    Args:
        pictures: At least one picture.
        meta: ``dataset``, ``origin`` and ``class_names``; optionally ``network``, ``loss`` and
            ``seed``.
        names: Title of each row, by default with the case's name.
        scope: First line of the caption, by default from ``meta``.
        chosen: Which cases they are.

    Raises:
        ValueError: ``pictures`` is empty.
    """
    if not pictures:
        raise ValueError("worst_figure needs at least one picture, got none.")
    wide = (INCHES - 0.5) / len(COLUMNS)
    shape = max(p.label.shape[1] * p.spacing[1] / (p.label.shape[0] * p.spacing[0])
                for p in pictures)  # fmt: skip
    tall = wide * min(shape, 1.5)
    figure = new_figure(INCHES, len(pictures) * (tall + 0.16) + 1.0)
    grid = figure.subplots(len(pictures), len(COLUMNS), squeeze=False)
    titles = names or [f"{p.case}, slice {p.slice + 1}, Dice {p.dice:.3f}" for p in pictures]
    bar: Any = None
    for row, picture, name in zip(grid, pictures, titles, strict=True):
        bar = _row(row, picture, len(meta["class_names"]))
        middle = row[len(COLUMNS) // 2]  # a long title elsewhere would widen its column
        middle.set_title(textwrap.fill(name, LETTERS), fontsize=7)
    for axes, title in zip(grid[-1], COLUMNS, strict=True):
        axes.set_xlabel(title, fontsize=8)
    colors = figure.colorbar(bar, ax=grid[:, -1].tolist(), shrink=0.7, aspect=30, pad=0.02)
    colors.ax.tick_params(labelsize=7)
    colors.set_label("confidence, from 1 / number of classes", fontsize=7)
    _classes(figure, meta["class_names"])
    own = " · ".join([data_label(meta), *run_labels(meta), *test_labels(meta)])
    write_caption(figure, [scope or own, LEGEND.format(chosen)])
    return figure


def _row(row: Sequence[Axes], picture: Picture, classes: int) -> Any:
    colors = ListedColormap([CLASSES[k % len(CLASSES)] for k in range(max(classes - 1, 1))])
    ratio = picture.spacing[1] / picture.spacing[0]
    for axes in row:
        axes.set(xticks=[], yticks=[])
        if picture.image.size and axes not in (row[3],):
            image = picture.image.astype(np.float32)
            low, high = np.percentile(image, [1, 99])
            dim = 2.5 if axes is row[4] else 1.0  # darker, to make errors visible
            axes.imshow(image.T, cmap="gray", vmin=low, vmax=low + dim * (high - low), aspect=ratio)
        else:
            axes.imshow(np.zeros_like(picture.label.T), cmap="gray", aspect=ratio)
    for axes, map_ in ((row[1], picture.label), (row[2], picture.prediction)):
        shown = np.ma.masked_where((map_ == 0) | (map_ == IGNORED), map_.astype(np.float32) - 1)
        top = max(classes - 2, 1)
        axes.imshow(shown.T, cmap=colors, vmin=0, vmax=top, alpha=0.75, aspect=ratio,
                    interpolation="nearest")  # fmt: skip
    confidence = picture.confidence.astype(np.float32)
    scale: dict[str, Any] = {"cmap": "inferno", "vmin": 1 / classes, "vmax": 1}
    scale["interpolation"] = "nearest"
    bar = row[3].imshow(confidence.T, aspect=ratio, **scale)
    right = (picture.prediction == picture.label) | (picture.label == IGNORED)
    row[4].imshow(np.ma.masked_where(right, confidence).T, aspect=ratio, **scale)
    return bar


def _classes(figure: Figure, names: Sequence[str]) -> None:
    marks = [Patch(color=CLASSES[k % len(CLASSES)], label=n) for k, n in enumerate(names[1:])]
    figure.legend(handles=marks, loc="outside lower center", ncols=4, fontsize=7, frameon=False)
