"""The table of one test run, from the content of its ``metrics.json``."""

import math
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from mbls.metrics.summary import NOT_PROTOCOLS

REGION_WORDS = {"all": "all voxels", "label": "label foreground", "union": "label or predicted"}
METRIC_WORDS = {
    "ece": "ECE",
    "cece": "class-wise ECE",
    "nll": "NLL",
    "brier": "Brier",
    "dice/mean": "Dice mean",
}
TRUE_WORDS = {"true_ece": "true ECE", "true_cece": "true class-wise ECE"}
SURFACE_WORDS = {"hd95": "HD95 (mm)", "nsd": "NSD"}
POOLED, PER_CASE = ("pooled", "micro"), ("per_case", "weighted")
LEFT_OUT = ("union", "dilated", "boundary")
"""Regions that stay in ``metrics.json``."""


def results_table(metrics: Mapping[str, Any]) -> Table:
    """Return overlap per structure and the calibration errors as a rich table.

    Args:
        metrics: Content of ``metrics.json``, from :func:`mbls.metrics.write_results` or the file.
    """
    meta = metrics["meta"]
    phantom = meta["origin"] == "phantom"
    title = f"{meta['dataset']}{' PHANTOM (synthetic data)' if phantom else ''}"
    tag = f", checkpoint {meta['tag']}" if "tag" in meta else ""
    table = Table(
        title=f"{title}: {meta['n_cases']} cases of {meta['n_patients']} patients{tag}",
        caption=caption(metrics),
        title_justify="left",
        caption_justify="left",
    )
    for heading in ("metric", "protocol", "region"):
        table.add_column(heading)
    for heading in ("pooled", "mean of cases", "noise floor", "cases"):
        table.add_column(heading, justify="right")
    for key, word in {"dice": "Dice", **SURFACE_WORDS}.items():
        for name, cell in metrics.get(key, {}).items():
            if name != meta["class_names"][0]:
                absent = f" ({cell['n_absent']} absent)" if cell.get("n_absent") else ""
                cases = f"{cell['n_cases']}{absent}"
                table.add_row(f"{word} {name}", "", "volume", "", _number(cell), "", cases)
        table.add_section()
    words = METRIC_WORDS | (TRUE_WORDS if phantom else {})
    for protocol in [name for name in metrics if name not in NOT_PROTOCOLS]:
        for region, poolings in metrics[protocol].items():
            for metric, word in words.items():
                pooled, mean = (_find(poolings, names, metric) for names in (POOLED, PER_CASE))
                if region not in LEFT_OUT and (cell := mean or pooled):
                    floors = [_shown(c["floor"]) for c in (pooled, mean) if c and c["floor"]]
                    table.add_row(
                        word,
                        protocol,
                        REGION_WORDS.get(region, region),
                        _number(pooled),
                        _number(mean),
                        " / ".join(floors),
                        str(cell["n_cases"]),
                    )
        table.add_section()
    return table


def caption(metrics: Mapping[str, Any]) -> str:
    """Return what the numbers are, with a warning where the data are synthetic."""
    meta = metrics["meta"]
    text = (
        f"In brackets 95 % intervals over patients. {meta['n_bins']} equal right-closed bins (acl: "
        f"20); all {len(meta['class_names'])} classes, without background in the label foreground "
        "under sound. Noise floor: what a calibrated model would show if voxels were independent "
        "(pooled / mean of cases). A structure absent from a label is left out of its Dice. Other "
        "protocols follow published code, mbls-voc weighting cases by voxels. "
        f"{meta['floored_voxels']} voxels floored in NLL."
    )
    if meta["origin"] == "phantom":
        text += (
            f" PHANTOM: synthetic images in {meta['dataset']}'s layout, no statement about "
            f"{meta['dataset']}; true errors come from the posterior of the labels."
        )
    return text


def _find(
    poolings: Mapping[str, Any], names: tuple[str, ...], metric: str
) -> Mapping[str, Any] | None:
    return next((poolings[n][metric] for n in names if metric in poolings.get(n, {})), None)


def _number(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return ""
    if cell["low"] is None:
        return _shown(cell["value"])
    return f"{_shown(cell['value'])} [{_shown(cell['low'])}, {_shown(cell['high'])}]"


def _shown(value: float | None) -> str:
    return "n/a" if value is None or math.isnan(value) else f"{value:.4f}"
