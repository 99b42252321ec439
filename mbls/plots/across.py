"""Colors, markers and captions of figures that compare losses."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mbls.plots.style import INCHES, PALETTE, new_figure, write_caption

MARKS = ("o", "s", "^", "D", "v", "P", "X")


def style_of(place: int) -> tuple[str, str]:
    """Return color and marker of the loss at a position."""
    return PALETTE[place % len(PALETTE)], MARKS[(place + place // len(PALETTE)) % len(MARKS)]


def across_figure(caption: Sequence[str], *, height: float, width: float = INCHES) -> Figure:
    """Return an empty figure with a caption above it.

    Args:
        caption: Lines: the data and computation, then the legend.
        height: In inches, without the caption.
        width: In inches.
    """
    figure = new_figure(width, height)
    write_caption(figure, caption)
    lines = figure.get_suptitle().count("\n") + 1
    figure.set_figheight(height + 0.16 * lines)
    return figure


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Label horizontal rows with names, the first on top."""
    axes.set(yticks=range(len(names)), ylim=(max(len(names), 2) - 0.5, -0.5))
    axes.set_yticklabels(names, fontsize=8)
