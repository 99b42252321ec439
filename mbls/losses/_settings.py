"""The rules that constructors check their arguments by."""

import math
from collections.abc import Collection

__all__ = [
    "check_above",
    "check_at_least",
    "check_count",
    "check_one_of",
    "check_within",
]


def check_at_least(name: str, value: float, low: float) -> None:
    """Raise ValueError unless ``value`` is finite and at least ``low``."""
    if not (math.isfinite(value) and value >= low):
        raise ValueError(f"{name} must be >= {low:g} and finite, got {value}.")


def check_above(name: str, value: float, low: float) -> None:
    """Raise ValueError unless ``value`` is finite and greater than ``low``."""
    if not (math.isfinite(value) and value > low):
        raise ValueError(f"{name} must be > {low:g} and finite, got {value}.")


def check_within(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless ``value`` lies in ``[low, high]``."""
    if not low <= value <= high:
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {value}.")


def check_count(name: str, value: int, low: int, *, odd: bool = False) -> None:
    """Raise ValueError unless ``value`` is an integer of at least ``low``, odd if asked for."""
    if not isinstance(value, int) or value < low or (odd and value % 2 == 0):
        raise ValueError(f"{name} must be an {'odd ' * odd}integer >= {low}, got {value!r}.")


def check_one_of(name: str, value: str, known: Collection[str]) -> None:
    """Raise ValueError unless ``value`` is one of ``known``."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}.")
