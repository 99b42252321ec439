"""Parse ``LOSSES="ce mbls:margin=3 mbls:margin=10,alpha=0.3"``: losses with their settings."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbls.config.choices import below, choose, did_you_mean, read_yaml
from mbls.config.options import Settings
from mbls.runtime.errors import ChoiceError

__all__ = ["LossSpec", "parse_loss", "parse_losses"]

SETTING = re.compile(r"([\w.]+)=(\[[^\]]*\]|[^,]*)(?:,|$)")


@dataclass(frozen=True)
class LossSpec:
    """A loss of a sweep.

    Args:
        name: The stem of a file in ``loss/``, or the path of a YAML file.
        settings: ``(setting, value)`` in the order of the file; a nested setting has a dotted
            name, ``base.include_background``.
    """

    name: str
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """The name in folders and tables, ``mbls,margin=10,alpha=0.3``."""
        settings = [f"{key}={_plain(value)}" for key, value in self.settings]
        return ",".join([Path(self.name).stem, *settings])

    def __str__(self) -> str:
        """Return the value of the option ``--loss``."""
        settings = ",".join(f"{key}={value}" for key, value in self.settings)
        return f"{self.name}:{settings}" if settings else self.name

    def overrides(self) -> Settings:
        """Return the loss's settings as settings of LightningCLI."""
        paths = [(key.replace(".", ".init_args."), value) for key, value in self.settings]
        return [(f"model.loss.init_args.{path}", value) for path, value in paths]


def parse_loss(text: str) -> LossSpec:
    """Parse one loss, ``name`` or ``name:setting=value,...``; see :func:`parse_losses`."""
    name, colon, rest = text.partition(":")
    defaults = _defaults(choose("loss", name))
    given: dict[str, str] = {}
    for key, value in _pairs(text, rest) if colon else ():
        if key not in defaults:
            hint = did_you_mean(key, defaults, cutoff=0.5)
            raise ChoiceError(
                f"Unknown setting {key!r} of loss {name}.{hint} Its file has: "
                f"{', '.join(defaults) or 'none'}."
            )
        if key in given:
            raise ChoiceError(f"{text}: {key} is given twice.")
        given[key] = _normal(f"{name}:{key}", value, defaults[key])
    return LossSpec(name, tuple((key, given[key]) for key in defaults if key in given))


def parse_losses(text: str) -> list[LossSpec]:
    """Parse losses separated by white space, each ``name`` or ``name:setting=value,...``.

    Raises:
        ChoiceError: A loss or setting does not exist, a value has the wrong type, or a loss is
            given twice.

    Example:
        >>> [spec.label for spec in parse_losses("ce mbls:alpha=0.30,margin=10")]
        ['ce', 'mbls,margin=10,alpha=0.3']
    """
    specs = [parse_loss(one) for one in text.split()]
    if not specs:
        raise ChoiceError('A sweep needs losses: LOSSES="ce mbls mbls:margin=3" (--losses).')
    _refuse_duplicates(specs)
    return specs


def _pairs(text: str, rest: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(rest):
        match = SETTING.match(rest, at)
        if match is None or not match[2]:
            break
        yield match[1], match[2]
        at = match.end()
    if at < len(rest) or not rest or rest.endswith(","):
        raise ChoiceError(
            f"{text} cannot be parsed: write settings as loss:setting=value,setting=value, such as "
            "mbls:margin=10,alpha=0.3."
        )


def _defaults(file: Path) -> dict[str, Any]:
    """Return the settings in a loss's file, by dotted name."""
    loss = below(read_yaml(file), "model", "loss")
    if not isinstance(loss, dict) or "class_path" not in loss:
        raise ChoiceError(f"{file} is not a loss: it must set model.loss.class_path.")
    return dict(_leaves(loss))


def _leaves(loss: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in (loss.get("init_args") or {}).items():
        if isinstance(value, dict) and "class_path" in value:
            yield from _leaves(value, f"{prefix}{key}.")
        elif not isinstance(value, dict):
            yield f"{prefix}{key}", value


def _normal(label: str, value: str, default: Any) -> str:
    """Return the canonical spelling of a value of the default's type: 3 and 3.0 are one cell.

    The loss's class checks its own rules (such as a margin >= 0) when the run starts.
    """
    if isinstance(default, bool):
        if value.lower() not in ("true", "false"):
            raise ChoiceError(f"{label} must be true or false, got {value}.")
        return value.lower()
    if not isinstance(default, int | float):
        return value
    try:
        number = float(value)
    except ValueError:
        raise ChoiceError(f"{label} must be a number (default: {default}), got {value}.") from None
    if not math.isfinite(number):
        raise ChoiceError(f"{label} must be finite, got {value}.")
    return str(int(number)) if number == int(number) and abs(number) < 1e15 else repr(number)


def _plain(value: str) -> str:
    """Return a value with only characters that are safe in a folder's name."""
    return re.sub(r"[^\w.+-]+", "_", value)


def _refuse_duplicates(specs: list[LossSpec]) -> None:
    """Raise ChoiceError if two losses would share a folder: equal losses, or files of one name."""
    seen: dict[str, LossSpec] = {}
    for spec in specs:
        if spec.label in seen:
            other = seen[spec.label]
            same = spec == other
            raise ChoiceError(
                f"Loss {spec.label} is twice in the sweep."
                if same
                else f"{other.name} and {spec.name} would both be named {spec.label}: rename one."
            )
        seen[spec.label] = spec
