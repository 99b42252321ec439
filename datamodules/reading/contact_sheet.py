"""A picture of many cases at once: one slice each, with its labels outlined."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from datamodules.reading.examination import CaseFacts

_SIZE = 1.9  # inches of a picture


def save_contact_sheet(
    path: Path,
    facts: Sequence[CaseFacts],
    *,
    class_names: Sequence[str],
    title: str,
    channel_names: Sequence[str] = (),
) -> None:
    """Write a PNG of every case that has a picture, modalities side by side.

    Args:
        path: The file.
        facts: The cases.
        class_names: Names of the classes, background first, for the legend.
        title: Title.
        channel_names: Names of the modalities, for the pictures' titles.
    """
    shown = [(case.id, case.picture) for case in facts if case.picture is not None]
    modalities = max((len(picture.image) for _, picture in shown), default=1)
    across = max(1, 8 // modalities) * modalities
    down = max(1, -(-len(shown) * modalities // across))
    figure = Figure(figsize=(_SIZE * across, (_SIZE + 0.2) * down + 0.9), dpi=110)
    axes = np.atleast_2d(figure.subplots(down, across, squeeze=False))
    for ax in axes.flat:
        ax.axis("off")
    order = [*range(0, 20, 2), *range(1, 20, 2)]  # strong colors first
    colors = [colormaps["tab20"](order[index % 20]) for index in range(len(class_names))]
    for number, (name, picture) in enumerate(shown):
        for channel, image in enumerate(picture.image):
            ax = axes.flat[number * modalities + channel]
            ax.imshow(image.T, cmap="gray", vmin=0, vmax=255, aspect=picture.aspect)
            for index in range(1, len(class_names)):
                inside = np.equal(picture.label.T, index)
                if inside.any():
                    ax.contour(inside, [0.5], colors=[colors[index]], linewidths=0.8)
            titles = [name[-28:]] if channel == 0 else []
            ax.set_title(" · ".join([*titles, *channel_names[channel : channel + 1]]), fontsize=6)
    height = figure.get_figheight()
    figure.suptitle(title, fontsize=9, y=1 - 0.08 / height, va="top")
    lines = [Line2D([], [], color=color) for color in colors[1:]]
    figure.legend(
        lines, list(class_names[1:]), loc="lower center", ncols=min(7, len(lines)), fontsize=7
    )
    figure.tight_layout(rect=(0, 0.45 / height + 0.01, 1, 1 - 0.25 / height), pad=0.3, h_pad=1.4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
