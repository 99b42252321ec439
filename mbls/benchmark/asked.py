"""What a cell asks for beside what its run folder was made with: a kept run must be the same."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mbls.benchmark.cells import Cell
from mbls.config.choices import compose, read_yaml
from mbls.config.neutral import NEUTRAL, added_callbacks, is_below
from mbls.config.options import chosen_names, option_words, options_of
from mbls.config.options import parser as train_parser

__all__ = ["asked", "differences"]


def asked(cell: Cell) -> dict[str, Any]:
    """Return the configuration that a cell's words add up to, as far as files and words say."""
    options, rest = train_parser().parse_known_args(cell.words()[1:])
    names = chosen_names(options)
    own = [Path(value) for key, value in options_of(rest) if key == "config"]
    config: dict[str, Any] = {"seed_everything": cell.seed}
    for file in [*compose(**names, dims=options.dim), *own]:
        config = _layered(config, read_yaml(file))
    for key, value in options_of([*cell.loss.setting_words(), *option_words(options), *rest]):
        if key != "config":
            _set(config, key.split("."), yaml.safe_load(value))
    return config


def differences(cell: Cell) -> list[str]:
    """Return in what a cell's folder differs from the cell, ``trainer.max_epochs is 2, not 10``.

    Settings that either does not state are not compared, nor where the data lie; that one had real
    data and the other a phantom is.
    """
    path = cell.folder / "config.yaml"
    if not path.is_file():
        return []
    wanted, found = asked(cell), read_yaml(path)
    told = [
        f"{name} is {_shown(there)}, not {_shown(want)}"
        for name, want, there in _compared(wanted, found)
        if not _equal(want, there)
    ]
    real = [bool(_root(config)) for config in (wanted, found)]
    if real[0] != real[1]:
        told.append(f"data are {'real' if real[1] else 'a phantom'}")
    return told


def _compared(wanted: dict[str, Any], found: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    ruled = (wanted.get("checkpoint") or {}).get("monitor") is None  # checkpoint.select sets both
    apart = ("trainer.callbacks", *(("checkpoint.monitor", "checkpoint.mode") if ruled else ()))
    for name, want, there in _shared((), wanted, found):
        if not is_below(name, apart):
            yield name, want, there
    if "callbacks" in (found.get("trainer") or {}):
        added = added_callbacks(wanted), added_callbacks(found)
        if len(added[0]) == len(added[1]):
            for pair in zip(*added, strict=True):
                yield from _shared(("trainer", "callbacks"), *pair)
        else:
            want, there = (" ".join(map(_shown, one)) or "none" for one in added)
            yield "trainer.callbacks", want, there


def _shared(path: tuple[str, ...], want: Any, there: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the values that both state; a dict that only one has is one value."""
    if isinstance(want, Mapping) and isinstance(there, Mapping):
        for key in want:
            if key in there and not is_below(".".join((*path, key)), NEUTRAL):
                yield from _shared((*path, key), want[key], there[key])
    else:
        yield ".".join(key for key in path if key != "init_args"), want, there


def _layered(below: Any, above: Any) -> Any:
    """Merge two configurations; another class brings its own arguments, as with LightningCLI."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    if below.get("class_path") != above.get("class_path", below.get("class_path")):
        return above
    merged = dict(below)
    for key, value in above.items():
        merged[key] = _layered(below.get(key), value)
    return merged


def _set(config: dict[str, Any], path: Sequence[str], value: Any) -> None:
    if path[-1].endswith("+"):  # as --trainer.callbacks+=my.Callback
        *above, key = *path[:-1], path[-1][:-1]
        inner: Any = config
        for name in above:
            inner = (inner or {}).get(name)
        before = (inner or {}).get(key) or []
        path, value = [*above, key], [*before, *(value if isinstance(value, list) else [value])]
    for key in path[:-1]:
        inner = config.get(key)
        if not isinstance(inner, dict):
            inner = config[key] = {}
        config = inner
    config[path[-1]] = value


def _equal(want: Any, there: Any) -> bool:
    if isinstance(want, Sequence) and isinstance(there, Sequence) and not isinstance(want, str):
        return len(want) == len(there) and all(map(_equal, want, there))
    try:
        return float(want) == float(there)
    except (TypeError, ValueError):
        return str(want) == str(there)


def _root(config: Mapping[str, Any]) -> Any:
    return ((config.get("data") or {}).get("init_args") or {}).get("root")


def _shown(value: Any) -> str:
    return str(value.get("class_path", value)) if isinstance(value, Mapping) else str(value)
