"""What runs lose to the best possible answer, as stacked bars."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mbls.plots.across import across_figure
from mbls.plots.style import BLACK, INCHES, PALETTE, small

__all__ = ["regret_figure"]

PARTS = {  # color and hatch of each
    "network": (PALETTE[0], ""),
    "calibration": (PALETTE[1], "///"),
    "decision": (PALETTE[2], "..."),
}
QUANTITIES = {"dice": "Dice lost", "volume": "error of the volume"}
_PANEL = 2.0


class Part(Protocol):
    """A part of the regret of a structure; see :class:`mbls.decisions.regret.Term`."""

    @property
    def quantity(self) -> str: ...
    @property
    def structure(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> float: ...
    @property
    def interval(self) -> tuple[float, float] | None: ...


def regret_figure(runs: Mapping[str, Sequence[Part]], *, caption: Sequence[str]) -> Figure:
    """Draw a bar per run, a column of panels per structure, and a row for Dice and for volume.

    Args:
        runs: The parts by the run's name.
        caption: Lines about the data and computation.
    """
    structures = list(dict.fromkeys(part.structure for part in next(iter(runs.values()))))
    legend = (
        "Bars: lost by each part, below 0 where it gains. Diamond: total, with its 95 % interval "
        "over patients. Volume: relative error."
    )
    wide = max(INCHES, 0.4 + len(structures) * (0.5 + 0.42 * len(runs)))
    rows = len(QUANTITIES)
    figure = across_figure([*caption, legend], height=_PANEL * rows + 0.5, width=wide)
    grid = figure.subplots(rows, len(structures), squeeze=False, sharex=True, sharey="row")
    for row, (quantity, label) in enumerate(QUANTITIES.items()):
        for column, structure in enumerate(structures):
            axes = grid[row, column]
            for place, parts in enumerate(runs.values()):
                chosen = {
                    p.name: p for p in parts if (p.quantity, p.structure) == (quantity, structure)
                }
                _bar(axes, place, chosen, labeled=row == column == place == 0)
            axes.axhline(0, color=BLACK, linewidth=0.6)
            axes.grid(axis="y", linewidth=0.3)
            axes.set(axisbelow=True, xlim=(-0.8, len(runs) - 0.2))
            small(axes, **({"y": label} if column == 0 else {}))
            if row == 0:
                axes.set_title(structure, fontsize=8)
            axes.set_xticks(range(len(runs)), labels=list(runs), rotation=90, fontsize=7)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    return figure


def _bar(axes: Axes, place: int, parts: Mapping[str, Part], *, labeled: bool) -> None:
    """Draw the parts of a run on each other: what is lost above 0, what is gained below."""
    ends = {True: 0.0, False: 0.0}
    for name, (color, hatch) in PARTS.items():
        value = parts[name].value
        label = name if labeled else None
        axes.bar(place, value, 0.7, bottom=ends[value > 0], color=color, hatch=hatch,
                 edgecolor="white", linewidth=0.4, label=label)  # fmt: skip
        ends[value > 0] += value
    total = parts["total"]
    if total.interval is not None:
        axes.vlines(place, *total.interval, color=BLACK, linewidth=0.9)
    axes.plot(place, total.value, "D", color=BLACK, markersize=3.5, markeredgecolor="white",
              markeredgewidth=0.4, label="total" if labeled else None)  # fmt: skip
