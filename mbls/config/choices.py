"""Configuration files by name: ``LOSS=mbls`` is ``loss/mbls.yaml`` of the config folder.

The folder is the registry. A name with a dot, such as ``acdc.paper`` or ``acdc.3d``, is not a
choice but the overrides of a preset or of 3D networks. Imports nothing heavy: a typo is reported
at once.
"""

import difflib
import importlib.util
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from mbls.runtime.errors import ChoiceError, MissingExtraError

__all__ = [
    "below",
    "choices",
    "choose",
    "compose",
    "config_folder",
    "data_files",
    "did_you_mean",
    "names_of",
    "read_yaml",
    "require_tracker",
    "stated_dims",
]

TRACKERS = ("tensorboard", "mlflow", "wandb")  # whose package and extra have the name
KINDS = ("data", "loss", "network", "trainer", "logger")
SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's if available


def config_folder() -> Path:
    """Return the config folder: ``MBLS_CONFIGS``, or that of the checkout."""
    if folder := os.environ.get("MBLS_CONFIGS"):
        return Path(folder)
    return Path(__file__).parents[2] / "experiments" / "configs"


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return `` Did you mean 'mbls'?`` for the nearest of the known names, or nothing.

    Example:
        >>> did_you_mean("mbsl", ["ce", "mbls"])
        " Did you mean 'mbls'?"
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" Did you mean {near[0]!r}?" if near else ""


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the content of a YAML file, read by a safe loader; an empty file is an empty dict.

    Raises:
        ChoiceError: The file cannot be read, is not YAML, or is not a mapping.
    """
    try:
        content = yaml.load(file.read_text(), SafeLoader)
    except OSError as error:
        raise ChoiceError(f"{file} cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}, line {mark.line + 1}" if mark else str(file)
        reason = getattr(error, "problem", None) or str(error)
        raise ChoiceError(
            f"{where}: {reason}. The file must be YAML: `name: value`, indented with spaces."
        ) from error
    if content is not None and not isinstance(content, dict):
        raise ChoiceError(
            f"{file} must contain settings, `name: value`, found {str(content)[:80]!r}."
        )
    return content or {}


def choices(kind: str) -> list[str]:
    """Return the sorted names of one kind."""
    return sorted(
        path.stem for path in (config_folder() / kind).glob("*.yaml") if "." not in path.stem
    )


def choose(kind: str, name: str) -> Path:
    """Return the file of a choice; ``name`` may also be the path of a YAML file.

    Raises:
        ChoiceError: The name does not exist; the message has the nearest one and the list.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ChoiceError(f"{kind} {name}: no such file.")
        return Path(name)
    known = choices(kind)
    if name in known:
        return config_folder() / kind / f"{name}.yaml"
    hint = did_you_mean(name.lower(), known, cutoff=0.5)
    label = {"data": "dataset", "trainer": "preset"}.get(kind, kind)
    raise ChoiceError(
        f"Unknown {label} {name!r}.{hint} There are: {', '.join(known) or 'none'}; "
        f"or give the path of a YAML file."
    )


def compose(
    *,
    dataset: str,
    loss: str,
    network: str,
    preset: str,
    dims: int | None = None,
    loggers: Sequence[str] = (),
) -> list[Path]:
    """Return the configuration files of a run, in layering order.

    The preset's overrides of a dataset or network, ``data/<dataset>.<preset>.yaml``, follow it.

    Args:
        dataset: Name or file of the dataset.
        loss: Name or file of the loss.
        network: Name or file of the network.
        preset: Name or file of the training settings.
        dims: 2 or 3; by default from the network's file, then from the dataset's.
        loggers: Names or files of trackers to use in addition to metrics.csv.
    """
    shared = [config_folder() / "base.yaml", choose("trainer", preset)]
    chosen = choose("network", network)
    data = data_files(dataset, preset, dims or stated_dims(chosen))
    trackers = [choose("logger", name) for name in loggers]
    for file in trackers:
        require_tracker(file)
    return [*shared, *trackers, *data, *_layers(chosen, Path(preset).stem), choose("loss", loss)]


def require_tracker(file: Path) -> None:
    """Check that the tracker of a file of ``logger/`` is installed.

    Raises:
        MissingExtraError: It is not; the message has the command that installs it.
    """
    name = file.stem
    if name in TRACKERS and importlib.util.find_spec(name) is None:
        raise MissingExtraError(
            f"LOGGER={name} (--logger {name}) needs the package {name}: "
            f"pip install -c constraints.txt -e '.[{name}]'."
        )


def data_files(dataset: str, preset: str, dims: int | None) -> list[Path]:
    """Return the files of a dataset: ``<dataset>[.3d][.<preset>].yaml``, in layering order.

    Args:
        dataset: Name or file of the dataset.
        preset: Name or file of the training settings.
        dims: 2 or 3; by default from the dataset's file.

    Raises:
        ChoiceError: The dataset has no settings for this number of dimensions.
    """
    data, name = choose("data", dataset), Path(preset).stem
    files = _layers(data, name)
    own = stated_dims(data) or 2
    if (dims or own) == own:
        return files
    deep = data.with_name(f"{data.stem}.{dims}d.yaml")
    if not deep.is_file():
        raise ChoiceError(
            f"Dataset {data.stem} has no settings for {dims}D: {deep} does not exist. Create it, "
            f"or use a {own}D network."
        )
    return [*files, *_layers(deep, name)]


def stated_dims(file: Path) -> int | None:
    """Return the ``spatial_dims`` that a file sets for the data, or None."""
    stated = below(read_yaml(file), "data", "init_args", "spatial_dims")
    return None if stated is None else int(stated)


def below(content: Any, *keys: str) -> Any:
    """Return the value at a path of keys, or None if the path does not exist."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _layers(file: Path, preset: str) -> list[Path]:
    overlay = file.with_name(f"{file.stem}.{preset}.yaml")
    return [file, overlay] if overlay.is_file() else [file]


def names_of(configs: Sequence[str | Path]) -> dict[str, str]:
    """Return the choice of each kind among configuration files: their stems by folder.

    Example:
        >>> names_of(["configs/data/acdc.yaml", "configs/data/acdc.quick.yaml"])
        {'data': 'acdc'}
    """
    found = {}
    for path in map(Path, configs):
        if path.parent.name in KINDS and "." not in path.stem:
            found[path.parent.name] = path.stem
    return found
