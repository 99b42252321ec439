"""A datamodule's settings by the names of their fields: ``spacing`` is one of preprocessing."""

from dataclasses import fields
from typing import Any

from datamodules import Division, Preprocessing, Sampling

GROUPS = {"division": Division, "preprocessing": Preprocessing, "sampling": Sampling}


def nested(**settings: Any) -> dict[str, Any]:
    """Return the settings as in YAML, with the fields of each dataclass below its name."""
    found = dict(settings)
    for name, group in GROUPS.items():
        if own := {f.name: found.pop(f.name) for f in fields(group) if f.name in found}:
            found[name] = own
    return found


def grouped(**settings: Any) -> dict[str, Any]:
    """Return the settings as arguments in Python, with the fields in dataclasses."""
    found = nested(**settings)
    return found | {name: group(**found[name]) for name, group in GROUPS.items() if name in found}


def merged(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return settings in YAML with those of a later file, which may state some fields alone."""
    found = settings | changes
    for name in settings.keys() & changes.keys():
        if isinstance(settings[name], dict) and isinstance(changes[name], dict):
            found[name] = merged(settings[name], changes[name])
    return found
