"""Classes of a dataset from a table of names and label values, as nnU-Net's dataset.json has it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.case import DataError, Problem
from datamodules.reading.checks import IGNORED

Value = int | str | Sequence[int]  # a label value, a color "#ff0000", or the values of a region
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")
BACKGROUND, IGNORE = "background", "ignore"


@dataclass(frozen=True)
class Classes:
    """The classes of a dataset and where they are in its label files.

    Attributes:
        names: Class names, background first.
        keys: Short names for logged values.
        label_map: Index of the class of each value in the files; 255 for ignored voxels.
        unions: Classes of each region of several label values.
    """

    names: tuple[str, ...]
    keys: tuple[str, ...]
    label_map: dict[int, int]
    unions: dict[str, tuple[int, ...]]


def read_labels(labels: Mapping[str, Value], source: str) -> Classes:
    """Return the classes for a table of label names.

    A name with one value is a class. A name with several is a region, as in nnU-Net: each value
    is a class, and the region the union of its classes. ``ignore`` names the value of voxels that
    losses and metrics ignore.

    Args:
        labels: Value, color or values of each name; ``background`` is among them.
        source: Where the table is from, for messages.

    Raises:
        DataError: Lists everything that is wrong with the table.

    Example:
        >>> read_labels({"background": 0, "tumor": [1, 2], "core": 2}, "here").unions
        {'tumor': (1, 2)}
    """
    problems = []

    def wrong(rule: str, found: str, fix: str = "Correct the labels.") -> None:
        problems.append(Problem("", source, rule, found, fix))

    values: dict[str, tuple[int, ...]] = {}
    for name, stated in labels.items():
        many = stated if isinstance(stated, Sequence) and not isinstance(stated, str) else [stated]
        found = [_value(one) for one in many]
        if None in found or not found:
            wrong("a label must be an integer, several, or a color #rrggbb", f"{name}: {stated!r}")
        else:
            values[name] = tuple(one for one in found if one is not None)
    background = next((name for name in values if name.lower() == BACKGROUND), None)
    if background is None:
        background = next((name for name, found in values.items() if found == (0,)), None)
    if background is None:
        fix = 'Name it: "background": 0.'
        wrong("one label must be the background", ", ".join(map(str, labels)) or "none", fix)
        raise DataError(problems)
    ignored = [name for name in values if name.lower() == IGNORE]
    regions = {name: set(v) for name, v in values.items() if len(set(v)) > 1}
    single = {name: v[0] for name, v in values.items() if len(set(v)) == 1 and name not in ignored}
    names: dict[int, str] = {}
    for name, value in single.items():
        names.setdefault(value, name)
    for name, value in single.items():
        if names[value] != name:
            wrong("two labels must not have one value", f"{names[value]} and {name}: {value}")
    void = {value for name in ignored for value in values[name]}
    for name, own in values.items():
        if name not in ignored and (both := void.intersection(own)):
            rule = f"the value of {ignored[0]} must be of no other label"
            wrong(rule, f"{min(both)} in {name}, too")
    zero = values[background][0]
    inside = {value for found in regions.values() for value in found}
    others = {zero, *void}
    order = [value for value in dict.fromkeys([*names, *sorted(inside)]) if value not in others]
    if not any(isinstance(stated, str) for stated in labels.values()):
        order.sort()  # colors keep the order of the table
    if not order:
        wrong("there must be a label next to the background", ", ".join(map(str, labels)))
    if any(zero in found for found in regions.values()):
        wrong("a region must not contain the background", str(labels))
    if problems:
        raise DataError(problems)
    label_map = {value: index for index, value in enumerate([zero, *order])}
    class_names = [names.get(value, f"label {value}") for value in (zero, *order)]
    unions = {
        name: tuple(sorted(label_map[value] for value in found)) for name, found in regions.items()
    }
    keys = _keys([*class_names, *unions])
    return Classes(
        tuple(class_names),
        tuple(keys[: len(class_names)]),
        label_map | dict.fromkeys(void, IGNORED),
        dict(zip(keys[len(class_names) :], unions.values(), strict=True)),
    )


def labels_of_values(values: Iterable[int]) -> dict[str, Value]:
    """Return a table of labels for the values that were found in label files.

    0, or black, is the background; another value alone is the foreground, several are numbered.
    """
    found = sorted({0, *values})
    colors = found[-1] > 0xFFFF  # more than 16 bits
    names = [f"class {number}" for number in range(1, len(found))]
    names = ["foreground"] if len(names) == 1 else names
    return {
        name: f"#{value:06x}" if colors else value
        for name, value in zip([BACKGROUND, *names], found, strict=True)
    }


def values_in(data: np.ndarray, limit: int = 256) -> set[int]:
    """Return the integers in a label map; none if it has fractions or more than ``limit``."""
    values = np.unique(data)
    if len(values) > limit or not np.isfinite(values).all() or (values != np.rint(values)).any():
        return set()
    return {int(value) for value in values}


def listed(paths: Sequence[Path], limit: int) -> list[Path]:
    """Return at most ``limit`` of the paths, evenly from the first to the last."""
    if len(paths) <= limit:
        return list(paths)
    return [paths[round(i)] for i in np.linspace(0, len(paths) - 1, limit)]


def _value(stated: object) -> int | None:
    if isinstance(stated, bool):
        return None
    if isinstance(stated, int):
        return stated
    if isinstance(stated, str) and _COLOR.fullmatch(stated):
        return int(stated[1:], 16)
    if isinstance(stated, str) and stated.lstrip("-").isdecimal():
        return int(stated)
    return None


def _keys(names: Sequence[str]) -> list[str]:
    """Return names of letters, digits and underscores that differ."""
    keys: list[str] = []
    for name in names:
        key = re.sub(r"\W+", "_", name.strip().lower()).strip("_") or "label"
        number = 2
        while key in keys:
            key, number = f"{key.removesuffix(f'_{number - 1}')}_{number}", number + 1
        keys.append(key)
    return keys
