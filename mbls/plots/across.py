"""What the figures over several losses share: colours, marks and a caption."""

from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mbls.plots.style import INCHES, write_caption

# Okabe and Ito's palette without yellow; losses beyond it differ in the mark.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")


def style_of(place: int) -> tuple[str, str]:
    """Return colour and mark of the loss at a place in the order of the losses."""
    return COLOURS[place % len(COLOURS)], MARKS[(place + place // len(COLOURS)) % len(MARKS)]


def across_figure(caption: Sequence[str], *, height: float, width: float = INCHES) -> Figure:
    """Return an empty figure with lines of caption above it.

    Args:
        caption: Of which data and how computed; then what the marks are.
        height: In inches, without the caption.
        width: In inches.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    write_caption(figure, caption)
    lines = figure.get_suptitle().count("\n") + 1
    figure.set_figheight(height + 0.16 * lines)
    return figure
