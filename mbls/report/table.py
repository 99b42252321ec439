"""The table of one test run, from the content of its ``metrics.json``."""

import math
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from mbls.metrics.summary import NOT_PROTOCOLS

POOLING_WORDS = {"pooled": "pooled", "per_case": "mean of cases"}
REGION_WORDS = {
    "all": "all voxels",
    "label": "label foreground",
    "union": "label or predicted foreground",
}
METRIC_WORDS = {"ece": "ECE", "cece": "class-wise ECE", "nll": "NLL", "brier": "Brier"}
TRUE_WORDS = {"true_ece": "true ECE", "true_cece": "true class-wise ECE"}


def results_table(metrics: Mapping[str, Any]) -> Table:
    """Return Dice per structure and the calibration errors as a rich table.

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
    for heading in ("metric", "protocol", "region", "pooling"):
        table.add_column(heading)
    for heading in ("value", "95 % interval", "noise floor", "cases"):
        table.add_column(heading, justify="right")
    for name, cell in metrics["dice"].items():
        if name == meta["class_names"][0]:
            continue
        absent = f" ({cell['n_absent']} absent)" if cell.get("n_absent") else ""
        table.add_row(
            f"Dice {name}",
            "",
            "volume",
            "mean of cases",
            *_numbers(cell),
            f"{cell['n_cases']}{absent}",
        )
    table.add_section()
    protocols = {name: regions for name, regions in metrics.items() if name not in NOT_PROTOCOLS}
    for protocol, regions in protocols.items():
        for region, poolings in regions.items():
            if region == "union":
                continue
            words = METRIC_WORDS | (TRUE_WORDS if phantom else {})
            for metric, word in words.items():
                for pooling, cells in poolings.items():
                    if metric in cells:
                        table.add_row(
                            word,
                            protocol,
                            REGION_WORDS.get(region, region),
                            POOLING_WORDS.get(pooling, pooling),
                            *_numbers(cells[metric]),
                            str(cells[metric]["n_cases"]),
                        )
            table.add_section()
    return table


def caption(metrics: Mapping[str, Any]) -> str:
    """Return what the numbers are, with a warning where the data are synthetic."""
    meta = metrics["meta"]
    text = (
        f"{meta['n_bins']} equal right-closed bins; all {len(meta['class_names'])} classes, "
        "without background in the label foreground; a structure absent from a label is left out "
        f"of its Dice; {meta['floored_voxels']} voxels floored in NLL."
    )
    if meta["origin"] == "phantom":
        text += (
            f" PHANTOM: synthetic images in {meta['dataset']}'s layout, no "
            f"statement about {meta['dataset']}; true errors come from the posterior of the labels."
        )
    return text


def _numbers(cell: Mapping[str, Any]) -> tuple[str, str, str]:
    low, high = _shown(cell["low"]), _shown(cell["high"])
    between = f"{low} to {high}" if cell["low"] is not None else ""
    return _shown(cell["value"]), between, _shown(cell["floor"]) if cell["floor"] else ""


def _shown(value: float | None) -> str:
    return "n/a" if value is None or math.isnan(value) else f"{value:.4f}"
