"""Choices: ``LOSS=mbls`` is the file ``loss/mbls.yaml`` of the configurations.

The folder is the registry. A name with a dot, such as ``acdc.paper``, is not a choice but what a
preset changes in one. Imports nothing heavy: a typo is answered at once.
"""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from mbls.errors import ChoiceError

__all__ = ["choices", "choose", "compose", "config_folder", "names_of"]

KINDS = ("data", "loss", "network", "trainer")


def config_folder() -> Path:
    """Return the folder of the configurations: ``MBLS_CONFIGS``, or the checkout's own."""
    if folder := os.environ.get("MBLS_CONFIGS"):
        return Path(folder)
    return Path(__file__).parents[1] / "experiments" / "configs"


def choices(kind: str) -> list[str]:
    """Return the names of one kind, sorted."""
    return sorted(
        path.stem for path in (config_folder() / kind).glob("*.yaml") if "." not in path.stem
    )


def choose(kind: str, name: str) -> Path:
    """Return the file of a choice; a path to a YAML file of one's own is taken as it is.

    Raises:
        ChoiceError: No such name; the message has the nearest one and the list.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ChoiceError(f"{kind} {name}: no such file.")
        return Path(name)
    known = choices(kind)
    if name in known:
        return config_folder() / kind / f"{name}.yaml"
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    label = {"data": "dataset", "trainer": "preset"}.get(kind, kind)
    raise ChoiceError(
        f"Unknown {label} {name!r}.{hint} There are: {', '.join(known) or 'none'}; "
        f"or give the path of a YAML file."
    )


def compose(*, dataset: str, loss: str, network: str, preset: str) -> list[Path]:
    """Return the configuration files of a run, in the order in which they are layered.

    The preset's changes to a dataset, ``data/<dataset>.<preset>.yaml``, follow the dataset.
    """
    data = choose("data", dataset)
    overlay = data.with_name(f"{data.stem}.{Path(preset).stem}.yaml")
    files = [config_folder() / "base.yaml", choose("trainer", preset), data]
    files += [overlay] if overlay.is_file() else []
    return [*files, choose("network", network), choose("loss", loss)]


def names_of(configs: Sequence[str | Path]) -> dict[str, str]:
    """Return the choice of each kind among configuration files: their stems, by folder.

    Example:
        >>> names_of(["configs/data/acdc.yaml", "configs/data/acdc.quick.yaml"])
        {'data': 'acdc'}
    """
    found = {}
    for path in map(Path, configs):
        if path.parent.name in KINDS and "." not in path.stem:
            found[path.parent.name] = path.stem
    return found
