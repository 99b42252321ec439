"""Tables of one test on screen, from its ``metrics.json``; they fit 80 columns."""

import math
import textwrap
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from mbls.evaluation.summary import NOT_PROTOCOLS
from mbls.metrics.catalog import NamedMetric, find_metric, further_keys, shown_in
from mbls.plots.labels import (
    POOLING_LABELS,
    further_label,
    region_label,
    run_labels,
    test_labels,
)

__all__ = ["regions_table", "results_table", "summary_table"]

Cell = Mapping[str, Any]

SHOWN_REGIONS = ("all", "label")
MAIN_FORMS = (("label", "per_case"), ("all", "pooled"))
"""Region and pooling of the summary: those of the papers, then all voxels."""
PUBLISHED = {"ece": "ece", "cece": "cece", "dice/mean": "dice"}
"""Entries of a published protocol, and their metrics."""


def overlap_label(metric: NamedMetric, meta: Mapping[str, Any]) -> str:
    """Return the heading of an overlap metric, with the tolerance of the surface Dice."""
    tolerance = meta.get("nsd_tolerance_mm")
    known = metric.key == "nsd" and tolerance is not None
    return f"{metric.label} ({tolerance:g} mm)" if known else metric.label


def results_table(metrics: Mapping[str, Any]) -> Table:
    """Return overlaps per structure, calibration errors, and the published protocols' values.

    Args:
        metrics: Content of ``metrics.json``, from :func:`write_results` or the file.
    """
    outer = Table.grid()
    outer.title, outer.caption = escape(_title(metrics)), escape(caption(metrics))
    outer.title_justify = outer.caption_justify = "left"
    outer.add_row(_overlap(metrics))
    outer.add_row(_calibration(metrics))
    published = [name for name in metrics if name not in (*NOT_PROTOCOLS, "sound")]
    if published:
        outer.add_row(_published(metrics, published))
    return outer


def summary_table(metrics: Mapping[str, Any]) -> Table:
    """Return a table with a row each for Dice, ECE, class-wise ECE and NLL.

    Args:
        metrics: Content of ``metrics.json``, from :func:`write_results` or the file.
    """
    forms = [(r, p) for r, p in MAIN_FORMS if r in metrics["sound"]]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="bold",
                  caption_justify="left", caption_style="")  # fmt: skip
    table.title, table.caption = escape(_title(metrics)), escape(_summary_caption(metrics))
    table.add_column("")
    for region, pooling in forms:
        heading = f"{region_label(region)},\n{POOLING_LABELS[pooling]}"
        table.add_column(heading, justify="right", no_wrap=True)
    dice = {"per_case": _in_line(metrics["dice"]["mean"])}
    table.add_row("Dice", *(dice.get(pooling, "") for _, pooling in forms))
    for metric in shown_in("summary"):
        cells = [metrics["sound"][r][p][metric.key] for r, p in forms]
        table.add_row(escape(metric.label), *map(_in_line, cells))
    if metrics["meta"].get("posterior") == "readers":
        for key in ("true_ece", "readers_ece"):
            cells = [metrics["sound"][r][p][key] for r, p in forms]
            label = f"ECE {further_label(key, metrics['meta'])}"
            table.add_row(escape(textwrap.fill(label, 16)), *map(_in_line, cells))
    return table


def regions_table(metrics: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return a table with a row for each region, each scored as a problem of two classes.

    Args:
        metrics: Content of ``metrics.json`` of each region.
    """
    first = next(iter(metrics.values()))
    forms = [(r, p) for r, p in MAIN_FORMS if r in first["sound"]]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="bold",
                  caption_justify="left", caption_style="")  # fmt: skip
    table.title = escape(_title(first))
    table.caption = escape(f"Each region against the rest. {_summary_caption(first)}")
    table.add_column("")
    shown = [m for m in shown_in("summary") if m.key in ("ece", "nll")]
    for heading in ("Dice", *(f"{m.label},\n{region_label(r)}" for m in shown for r, _ in forms)):
        table.add_column(heading, justify="right")
    for found in metrics.values():
        cells = [found["sound"][r][p][m.key] for m in shown for r, p in forms]
        name = str(found["meta"].get("region", found["meta"]["class_names"][-1]))
        table.add_row(escape(name), *(_shown(cell) for cell in (found["dice"]["mean"], *cells)))
    return table


def _summary_caption(metrics: Mapping[str, Any]) -> str:
    meta, names = metrics["meta"], metrics["meta"]["class_names"]
    text = (
        "Brackets: 95 % interval over patients, too short where these are few. Dice: mean over the "
        "cases, then over the foreground structures. Errors: protocol sound, "
        f"{meta['n_bins']} bins; per case: mean of the cases."
    )
    absent = {n: metrics["dice"][n] for n in names[1:] if metrics["dice"][n].get("n_absent")}
    if absent:
        named = ", ".join(f"{n} ({cell['n_absent']})" for n, cell in absent.items())
        text += f" Skipped if absent from the label, of {meta['n_cases']} cases: {named}."
    for region, pooling in MAIN_FORMS:
        known = metrics["sound"].get(region, {}).get(pooling, {}).get("ece", {}).get("n_cases")
        if known is not None and known < meta["n_cases"]:
            text += f" {region_label(region).capitalize()}: {known} of {meta['n_cases']} cases."
    if meta.get("posterior") == "readers":
        text += " Labels: the majority of several readers."
    if meta["origin"] == "phantom":
        text += f" PHANTOM: synthetic images, no statement about {meta['dataset']}."
    return text


def _title(metrics: Mapping[str, Any]) -> str:
    meta = metrics["meta"]
    phantom = " PHANTOM (synthetic data)" if meta["origin"] == "phantom" else ""
    counts = f"{meta['n_cases']} cases of {meta['n_patients']} patients"
    return " · ".join(
        [f"{meta['dataset']}{phantom}: {counts}", *run_labels(meta), *test_labels(meta)]
    )


def caption(metrics: Mapping[str, Any]) -> str:
    """Return an explanation of the values, with a warning if the data are synthetic."""
    meta = metrics["meta"]
    text = (
        "Below a value, its 95 % interval: percentiles over drawn patients, too short if these "
        f"are few; per case: the mean of the cases. {meta['n_bins']} equal right-closed bins; "
        f"class-wise over all {len(meta['class_names'])} classes, without background in the "
        "labeled foreground. Noise floor: expected value of a calibrated model if voxels were "
        "independent. With few patients or voxels, an ECE and its interval are biased upward; "
        "corrected: minus its bootstrap bias over patients, with Student's interval. "
    )
    if "smece" in metrics["sound"]["all"]["pooled"]:
        text += (
            "Equal-mass and smooth ECE and TACE (over classes, above "
            f"{meta['tace_threshold']}): all voxels in one histogram, without intervals. "
        )
    if unions := _unions(metrics):
        text += f"ECE of {', '.join(unions)}: the sum of the classes' probabilities. "
    text += (
        "Structures absent from a label are skipped in overlaps. "
        f"{meta['floored_voxels']} voxels floored in NLL."
    )
    if meta.get("posterior") == "readers":
        text += (
            " Labels: the majority of several readers. Against the readers' mean: expected for a "
            "reader drawn at random; against each reader: the mean of their errors."
        )
    if meta["origin"] == "phantom":
        text += (
            f" PHANTOM: synthetic images in {meta['dataset']}'s layout, no statement about "
            f"{meta['dataset']}; true errors come from the posterior of the labels."
        )
    return text


def _table(title: str, first: str, columns: list[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD,
                  pad_edge=False)  # fmt: skip
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _overlap(metrics: Mapping[str, Any]) -> Table:
    shown = [m for m in shown_in("screen", "overlap") if metrics.get(m.key)]
    labels = [overlap_label(m, metrics["meta"]) for m in shown]
    table = _table("Overlap per case", "structure", [*labels, "cases"])
    for name, dice in metrics["dice"].items():
        if name == metrics["meta"]["class_names"][0]:
            continue
        absent = f"\n{dice['n_absent']} absent" if dice.get("n_absent") else ""
        cells = [_shown(metrics[m.key].get(name), digits=m.digits) for m in shown]
        table.add_row(escape(name), *cells, f"{dice['n_cases']}{absent}")
    return table


def _calibration(metrics: Mapping[str, Any]) -> Table:
    shown = [
        (region, pooling)
        for region, poolings in metrics["sound"].items()
        if region in SHOWN_REGIONS
        for pooling in poolings
    ]
    headings = [f"{region_label(r)},\n{POOLING_LABELS[p]}" for r, p in shown]
    table = _table("Calibration, protocol sound", "metric", headings)
    columns = [metrics["sound"][r][p] for r, p in shown]
    for metric in shown_in("screen"):
        further = {"corrected": f"{metric.key}_corrected"}
        for key in further_keys([metric], posterior=True, readers=True):
            label = further_label(key, metrics["meta"])
            further["true value" if label == "true" else label] = key
        if not any(metric.key in c for c in columns):
            continue
        cells = [c.get(metric.key) for c in columns]
        digits = metric.digits
        table.add_row(escape(metric.label), *[_shown(cell, digits=digits) for cell in cells])
        if metric.floor is not None:
            floors = [_number(cell["floor"], digits) if cell else "" for cell in cells]
            table.add_row("  noise floor", *floors, style="dim")
        for label, key in further.items():
            if any(key in c for c in columns):
                name = textwrap.fill(f"  {label}", 18, subsequent_indent="  ")
                table.add_row(name, *[_shown(c.get(key), digits=digits) for c in columns])
    for name in _unions(metrics):
        cells = [c.get(f"ece/{name}") for c in columns]
        table.add_row(f"ECE of {escape(name)}", *map(_shown, cells))
    return table


def _unions(metrics: Mapping[str, Any]) -> list[str]:
    """Return the names of the unions of classes."""
    others = {*metrics["meta"]["class_names"], "mean"}
    return [name for name in metrics["dice"] if name not in others]


def _published(metrics: Mapping[str, Any], protocols: list[str]) -> Table:
    title = "The same predictions under published protocols"
    table = _table(title, "protocol", [find_metric(key).label for key in PUBLISHED.values()])
    for protocol in protocols:
        for region, poolings in metrics[protocol].items():
            for pooling, cells in poolings.items():
                values = [_shown(cells.get(metric)) for metric in PUBLISHED]
                if any(values):
                    where = region_label(region).replace(" (", "\n  (")
                    how = f"[dim]{where}, {POOLING_LABELS[pooling]}[/dim]"
                    table.add_row(f"{escape(protocol)}\n  {how}", *values)
    return table


def _shown(cell: Cell | None, *, digits: int = 4) -> str:
    if cell is None:
        return ""
    value = _number(cell["value"], digits)
    if cell["low"] is None:
        return value
    return f"{value}\n[dim]{_number(cell['low'], digits)}-{_number(cell['high'], digits)}[/dim]"


def _in_line(cell: Cell) -> str:
    value = _number(cell["value"])
    if cell["low"] is None:
        return value
    return escape(f"{value} [{_number(cell['low'])}, {_number(cell['high'])}]")


def _number(value: float | None, digits: int = 4) -> str:
    return "n/a" if value is None or math.isnan(value) else f"{value:.{digits}f}"
