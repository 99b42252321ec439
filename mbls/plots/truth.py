"""Measured calibration errors, and those against a phantom's posterior or the readers' mean."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mbls.metrics.catalog import shown_in
from mbls.plots.across import across_figure, name_rows
from mbls.plots.labels import POOLING_LABELS, further_label, region_label
from mbls.plots.style import BLACK, BLUE, ORANGE, caption, panels, small

__all__ = ["measured_figure", "truth_figure"]

REGIONS = ("all", "label", "union")
POOLINGS = ("pooled", "per_case")
MARKS: dict[str, tuple[float, dict[str, Any]]] = {  # height within a row, and style
    "measured": (-0.14, {"marker": "o", "color": BLACK, "markersize": 3}),
    "corrected": (0.14, {"marker": "s", "color": BLUE, "markersize": 4}),
    "true": (0, {"marker": "|", "color": ORANGE, "markersize": 14, "markeredgewidth": 1.6}),
}
LINES = "Lines: 95 % intervals over patients."
EXPECTED = {
    "true": "True: expected over the labels' distribution.",
    "against the readers' mean": "Against the readers' mean: expected for a drawn reader.",
}

Limits = tuple[float | None, float | None, float | None]
"""A value and the limits of its interval; None or NaN if undefined."""


def truth_figure(metrics: Mapping[str, Any]) -> Figure:
    """Draw the measured and the true errors of a test, or those against the readers' mean.

    Args:
        metrics: Content of ``metrics.json``, from :func:`mbls.evaluation.write_results` or the
            file.

    Raises:
        ValueError: The test has no true errors, since the posterior was unknown.
    """
    sound, meta = metrics["sound"], metrics["meta"]
    forms = [(r, p) for r in REGIONS if r in sound for p in POOLINGS]
    if not forms or any("true_ece" not in sound[r][p] for r, p in forms):
        raise ValueError(
            "True errors need a known posterior (of a phantom, or of several readers); this test "
            "had none."
        )
    names = [f"{textwrap.fill(region_label(r), 24)},\n{POOLING_LABELS[p]}" for r, p in forms]
    chosen, true = [m for m in shown_in("json") if m.true], further_label("true_ece", meta)
    figure, grid, columns = panels(len(chosen), heights=(1,), shape=1.4)
    for position, metric in enumerate(chosen):
        row, column = divmod(position, columns)
        axes = figure.add_subplot(grid[row, column])
        keys = {"measured": metric.key, "corrected": f"{metric.key}_corrected",
                "true": f"true_{metric.key}"}  # fmt: skip
        rows = [{kind: _limits(sound[r][p].get(key)) for kind, key in keys.items()}
                for r, p in forms]  # fmt: skip
        _draw(axes, rows, true=true, signed=metric.better is None)
        name_rows(axes, names if column == 0 else [""] * len(names))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_title(metric.label, fontsize=8)
        small(axes, x="error")
    _explain(figure)
    about: dict[str, Any] = {"region": "each region", "pooling": "pooled and per case"}
    caption(figure, meta, cases=meta["n_cases"], n_bins=meta["n_bins"],
            legend=f"{LINES} {EXPECTED[true]}", **about)  # fmt: skip
    return figure


def measured_figure(
    values: Mapping[str, Mapping[str, tuple[Limits, Limits]]],
    *,
    caption: Sequence[str],
    true: str = "true",
) -> Figure:
    """Draw a panel per measure and a row per loss: measured and true errors.

    Args:
        values: By measure and loss: the corrected measured error, and the true one.
        caption: Lines about the data and computation.
        true: Label of the true error (:func:`~mbls.plots.labels.further_label`).
    """
    names = list(next(iter(values.values())))
    figure = across_figure(
        [*caption, f"{LINES} {EXPECTED[true]}"], height=0.9 + 0.28 * max(len(names), 2)
    )
    grid = figure.subplots(1, len(values), squeeze=False, sharey=True)[0]
    for axes, (measure, by_loss) in zip(grid, values.items(), strict=True):
        pairs = [by_loss[name] for name in names]
        _draw(axes, [{"corrected": m, "true": t} for m, t in pairs], true=true)
        small(axes, x=textwrap.fill(measure, 24))
    name_rows(grid[0], names)
    _explain(figure)
    return figure


def _limits(cell: Mapping[str, Any] | None) -> Limits:
    return (cell["value"], cell["low"], cell["high"]) if cell else (None, None, None)


def _draw(
    axes: Axes, rows: Sequence[Mapping[str, Limits]], *, true: str, signed: bool = False
) -> None:
    for place, row in enumerate(rows):
        for kind, (value, low, high) in row.items():
            if value is None or np.isnan(value):
                continue
            offset, style = MARKS[kind]
            label = true if kind == "true" else kind
            axes.plot(value, place + offset, linestyle="", label=label, **style)
            if low is not None and high is not None:
                axes.hlines(place + offset, low, high, color=style["color"], linewidth=1.2)
    axes.grid(axis="x", linewidth=0.3)
    if signed:
        axes.axvline(0, color=BLACK, linewidth=0.6)
    else:
        axes.set_xlim(left=0)


def _explain(figure: Figure) -> None:
    """Add a legend without duplicates."""
    found = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes]
    marks = {label: handle for pairs in found for handle, label in pairs}
    figure.legend(marks.values(), marks.keys(), loc="outside lower right", ncols=3,
                  fontsize=7, frameon=False)  # fmt: skip
