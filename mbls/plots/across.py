"""What the figures over several losses share: colours, marks and a caption."""

import textwrap
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mbls.plots.style import INCHES

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
    lines = [part for line in caption for part in textwrap.wrap(line, int(width * 16))]
    figure = Figure(figsize=(width, height + 0.16 * len(lines)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("\n".join(lines), fontsize=8, x=0.01, ha="left")
    return figure
