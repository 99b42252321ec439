"""What the figures over several losses share: colors, marks and a caption."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mbls.plots.style import INCHES, PALETTE, new_figure, write_caption

MARKS = ("o", "s", "^", "D", "v", "P", "X")


def style_of(place: int) -> tuple[str, str]:
    """Return color and mark of the loss at a place in the order of the losses."""
    return PALETTE[place % len(PALETTE)], MARKS[(place + place // len(PALETTE)) % len(MARKS)]


def across_figure(caption: Sequence[str], *, height: float, width: float = INCHES) -> Figure:
    """Return an empty figure with lines of caption above it.

    Args:
        caption: Of which data and how computed; then what the marks are.
        height: In inches, without the caption.
        width: In inches.
    """
    figure = new_figure(width, height)
    write_caption(figure, caption)
    lines = figure.get_suptitle().count("\n") + 1
    figure.set_figheight(height + 0.16 * lines)
    return figure


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Give a horizontal row to each name, the first on top, and grid lines for values."""
    axes.set(yticks=range(len(names)), ylim=(max(len(names), 2) - 0.5, -0.5))
    axes.set_yticklabels(names, fontsize=8)
