"""What regions, poolings and runs are called in every table and figure."""

from collections.abc import Mapping
from typing import Any

REGION_WORDS = {
    "all": "all voxels",
    "label": "labeled foreground",
    "union": "labeled or predicted foreground",
    "dilated": "near labeled foreground",
    "boundary": "near a change of label",
}
POOLING_WORDS = {
    "pooled": "pooled",
    "micro": "pooled",
    "per_case": "per case",
    "weighted": "by voxels",
}


def region_words(region: str) -> str:
    """Return a region in words, with its name in files (``cases.csv``) where it differs.

    Example:
        >>> region_words("all"), region_words("dilated")
        ('all voxels', 'near labeled foreground (dilated)')
    """
    words = REGION_WORDS.get(region, region)
    return words if region == "all" or words == region else f"{words} ({region})"


def origin_words(meta: Mapping[str, Any]) -> str:
    """Return whether the data are real."""
    return "PHANTOM, synthetic" if meta["origin"] == "phantom" else "real data"


def data_words(meta: Mapping[str, Any]) -> str:
    """Return the dataset, and whether it is real.

    Example:
        >>> data_words({"dataset": "acdc", "origin": "phantom"})
        'acdc (PHANTOM, synthetic)'
    """
    return f"{meta['dataset']} ({origin_words(meta)})"


def run_words(meta: Mapping[str, Any]) -> list[str]:
    """Return network, loss and seed of a run, as far as they are known."""
    forms = {"network": "{}", "loss": "{}", "seed": "seed {}"}
    return [form.format(meta[key]) for key, form in forms.items() if key in meta]


def tested_words(meta: Mapping[str, Any]) -> list[str]:
    """Return how a run was tested: checkpoint, grid, mirrorings, windows, as far as is known."""
    mirrored = ", ".join(map(str, meta.get("mirror") or []))
    known = {**meta, "mirror": mirrored}
    forms = {"tag": "checkpoint {}", "grid": "{} grid", "mirror": "mirrored {}", "inference": "{}"}
    return [form.format(known[key]) for key, form in forms.items() if known.get(key)]
