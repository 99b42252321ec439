"""Settings that have moved, for run folders of earlier versions and for error messages.

Imports nothing heavy: reports read configurations too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mbls.config.choices import below, read_yaml

__all__ = ["MOVED", "read_run_config", "updated"]

_GROUPS = {  # argument of a datamodule now -> those of before that are its fields
    "division": ("split", "fold", "folds", "val_fraction", "test_fraction", "adapt",
                 "holdout_fraction"),
    "preprocessing": ("orientation", "spacing", "normalize", "percentiles", "window", "crop_above",
                      "antialias", "cache_dtype"),
    "sampling": ("patch_size", "crop", "foreground", "samples_per_case"),
}  # fmt: skip
_RENAMED = {"cache_dtype": "dtype"}
MOVED = {
    name: (group, _RENAMED.get(name, name)) for group, names in _GROUPS.items() for name in names
}
"""Argument of a datamodule -> the argument and its field that replace it."""
_ALWAYS = {"cache_dtype", "percentiles"}  # every run of datamodules.SegmentationDataModule had them


def updated(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a run with each moved setting at its place.

    Other classes' arguments of the same names, and configurations of this version, are kept.
    """
    arguments = below(config, "data", "init_args")
    if not isinstance(arguments, dict) or not arguments.keys() >= _ALWAYS:
        return dict(config)
    found = {name: value for name, value in arguments.items() if name not in MOVED}
    for name, (group, field) in MOVED.items():
        if name in arguments:
            found.setdefault(group, {})[field] = arguments[name]
    return dict(config) | {"data": config["data"] | {"init_args": found}}


def read_run_config(file: Path) -> dict[str, Any]:
    """Return the ``config.yaml`` of a run, in the form of this version.

    Raises:
        ChoiceError: The file cannot be read, is not YAML, or is not a mapping.
    """
    return updated(read_yaml(file))
