"""Multipliers of an adaptive loss over the epochs of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mbls.plots.labels import data_label, run_labels
from mbls.plots.style import INCHES, PALETTE, new_figure, small, write_caption

DASHES = ("-", "--", ":", "-.")
TITLES = {"lambda": "multiplier", "rho": "penalty weight", "gamma": "exponent of a bin"}

Lines = dict[str, dict[str, list[tuple[int, float]]]]


def multiplier_lines(rows: Sequence[Mapping[str, Any]]) -> Lines:
    """Return the logged multipliers: ``{kind: {class or bin: [(epoch, value), ...]}}``.

    Args:
        rows: Rows of a run's metrics.csv, with columns such as ``train/lambda/<class>``.
    """
    found: Lines = {}
    for row in rows:
        for column, value in row.items():
            split, _, rest = column.partition("/")
            kind, _, name = rest.partition("/")
            if split == "train" and kind in TITLES and name:
                points = found.setdefault(kind, {}).setdefault(name, [])
                points.append((int(row["epoch"]), float(value)))
    return found


def multipliers_figure(rows: Sequence[Mapping[str, Any]], *, meta: Mapping[str, Any]) -> Figure:
    """Draw a panel for each kind of multiplier, with a line for each class, region or bin.

    A kind that never changed is only mentioned in the caption, unless no kind did.

    Args:
        rows: Rows of a run's metrics.csv.
        meta: ``dataset``, ``origin``, ``network``, ``loss`` and ``seed``; ``adapts_on`` is
            ``"val"`` or ``"holdout"``, the cases that the loss observed.

    Raises:
        ValueError: No multiplier was logged.
    """
    kinds = multiplier_lines(rows)
    if not kinds:
        raise ValueError(f"rows must have a column train/<{'|'.join(TITLES)}>/<name>, got none.")
    still = {
        kind: value for kind, lines in kinds.items() if (value := _one_value(lines)) is not None
    }
    moving = {kind: lines for kind, lines in kinds.items() if kind not in still}
    moving = moving or dict([next(iter(kinds.items()))])
    figure = new_figure(INCHES, 2.9 * len(moving) + 0.5)
    for position, (kind, lines) in enumerate(moving.items()):
        axes = figure.add_subplot(len(moving), 1, position + 1)
        _draw(axes, lines)
        small(axes, x="epoch of training before the validation (from 0)", y=TITLES[kind])
    text = " · ".join([data_label(meta), *run_labels(meta)])
    cases = "training cases held out" if meta.get("adapts_on") == "holdout" else "validation cases"
    text += (
        f"\nValues that each validation set for the following epochs, from all voxels of the "
        f"{cases}, pooled, on the preprocessed grid; no test case is used."
    )
    text += "".join(f" Every {TITLES[kind]} stayed {value:g}." for kind, value in still.items())
    write_caption(figure, text.split("\n"))
    return figure


def _one_value(lines: Mapping[str, Sequence[tuple[int, float]]]) -> float | None:
    """Return the value of all points, or None if they differ."""
    values = {value for points in lines.values() for _, value in points}
    return values.pop() if len(values) == 1 else None


def _draw(axes: Axes, lines: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    """Draw lines: color by class, style by region."""
    values = [value for points in lines.values() for _, value in points]
    if min(values) > 0 and max(values) > 30 * min(values):
        axes.set_yscale("log")
    classes = list(dict.fromkeys(name.partition("/")[0] for name in lines))
    for name, points in lines.items():
        first, _, region = name.partition("/")
        place = classes.index(first)
        dash = DASHES[(region == "inner") + place // len(PALETTE) * (1 if not region else 2)]
        epochs, heights = zip(*points, strict=True)
        label = f"{first}, {region}" if region else first
        axes.plot(
            epochs, heights, dash, color=PALETTE[place % len(PALETTE)], linewidth=1,
            marker=".", markersize=4, label=label,
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
