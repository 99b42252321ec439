"""Labels of regions, poolings, datasets and runs in tables and figures."""

from collections.abc import Mapping
from typing import Any

REGION_LABELS = {
    "all": "all voxels",
    "label": "labeled foreground",
    "union": "labeled or predicted foreground",
    "dilated": "near labeled foreground",
    "boundary": "near a change of label",
}
POOLING_LABELS = {
    "pooled": "pooled",
    "micro": "pooled",
    "per_case": "per case",
    "weighted": "by voxels",
}


def region_label(region: str) -> str:
    """Return the label of a region, with its name in files (``cases.csv``) if that differs.

    Example:
        >>> region_label("all"), region_label("dilated")
        ('all voxels', 'near labeled foreground (dilated)')
    """
    label = REGION_LABELS.get(region, region)
    return label if region == "all" or label == region else f"{label} ({region})"


def origin_label(meta: Mapping[str, Any]) -> str:
    """Return ``real data``, or the mark of a phantom."""
    return "PHANTOM, synthetic" if meta["origin"] == "phantom" else "real data"


def data_label(meta: Mapping[str, Any]) -> str:
    """Return the dataset and its origin.

    Example:
        >>> data_label({"dataset": "acdc", "origin": "phantom"})
        'acdc (PHANTOM, synthetic)'
    """
    return f"{meta['dataset']} ({origin_label(meta)})"


def further_label(key: str, meta: Mapping[str, Any]) -> str:
    """Return what the value of a key ``true_...`` or ``readers_...`` is compared with.

    Example:
        >>> further_label("true_ece", {}), further_label("readers_ece", {})
        ('true', 'against each reader, averaged')
        >>> further_label("true_ece", {"posterior": "readers"})
        "against the readers' mean"
    """
    if key.startswith("readers_"):
        return "against each reader, averaged"
    return "against the readers' mean" if meta.get("posterior") == "readers" else "true"


def run_labels(meta: Mapping[str, Any]) -> list[str]:
    """Return network, loss and seed of a run, ensemble and calibrator, as far as known."""
    forms = {"network": "{}", "loss": "{}", "seed": "seed {}"}
    if "networks" in meta:  # one seed is not that of all
        forms["seed"] = "ensemble of {networks}"
    forms |= {"calibrator": "calibrated by {calibrator}"}
    return [form.format(meta[key], **meta) for key, form in forms.items() if key in meta]


def test_labels(meta: Mapping[str, Any]) -> list[str]:
    """Return checkpoint, grid, mirrored axes and windows of a test, if known."""
    mirrored = ", ".join(map(str, meta.get("mirror") or []))
    known = {**meta, "mirror": mirrored}
    forms = {"tag": "checkpoint {}", "grid": "{} grid", "mirror": "mirrored {}", "inference": "{}"}
    return [form.format(known[key]) for key, form in forms.items() if known.get(key)]
