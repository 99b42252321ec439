"""The settings of a cluster, from ``site.yaml`` and a file of the user's own."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from mbls.config.choices import did_you_mean
from mbls.runtime.errors import ChoiceError

__all__ = ["Site", "load_site"]

DEFAULT = Path(__file__).with_name("site.yaml")


@dataclass(frozen=True)
class Site:
    """What ``site.yaml`` states; it says what each setting is."""

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    gpus: str
    cpus_per_task: int
    memory: str | None
    lead: int
    options: tuple[str, ...]
    setup: tuple[str, ...]
    container: str | None
    mbls: str | None
    logs: Path

    def __post_init__(self) -> None:
        if self.gpus not in ("gpus-per-node", "gres"):
            raise ChoiceError(f"site: gpus must be gpus-per-node or gres, got {self.gpus!r}.")
        for name in ("cpus_per_task", "lead"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ChoiceError(f"site: {name} must be a whole number >= 1, got {value!r}.")


def load_site(file: Path | None = None) -> Site:
    """Return the site's settings, those of ``file`` over those of ``site.yaml``.

    Raises:
        ChoiceError: A file that is not there or no YAML, a setting that does not exist or is out
            of range.
    """
    stated: dict[str, Any] = {}
    for path in (DEFAULT, *([] if file is None else [file])):
        stated |= _read(path)
    for name in ("options", "setup"):
        if not isinstance(stated[name], list):
            raise ChoiceError(f"site: {name} must be a list, got {stated[name]!r}.")
        stated[name] = tuple(stated[name])
    return Site(**stated | {"logs": Path(stated["logs"])})


def _read(path: Path) -> dict[str, Any]:
    known = [field.name for field in fields(Site)]
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except FileNotFoundError:
        raise ChoiceError(f"SITE {path}: no such file.") from None
    except yaml.YAMLError as error:
        raise ChoiceError(f"{path} is no YAML: {error}") from None
    if not isinstance(content, dict):
        raise ChoiceError(f"{path} must hold settings, one `name: value` a line.")
    for name in content:
        if name not in known:
            hint = did_you_mean(str(name), known)
            raise ChoiceError(f"{path}: unknown setting {name!r}.{hint} There are: {known}.")
    return content
