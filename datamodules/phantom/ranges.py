"""What the settings of all phantoms have in common: they are checked, and told as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class PhantomSettings:
    """Settings of a phantom: numbers, words and tuples of them."""

    def check_numbers(
        self, *, fractions: Iterable[str], positive: Iterable[str], ranges: Iterable[str]
    ) -> None:
        """Raise ValueError for a setting out of its range.

        Args:
            fractions: Names of those that lie in [0, 1].
            positive: Names of those above 0.
            ranges: Names of pairs that rise from 0 or more.
        """
        for name in fractions:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}.")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}.")
        for name in ranges:
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise ValueError(f"{name} must be (low, high), 0 <= low <= high: {low}, {high}.")

    def as_json(self) -> dict[str, Any]:
        """Return the settings as JSON holds them: tuples become lists."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }
