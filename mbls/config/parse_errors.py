"""Short versions of jsonargparse's errors: the option, its file and line, the nearest name."""

import dataclasses
import importlib
import inspect
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import yaml

from mbls.config.choices import SafeLoader, did_you_mean
from mbls.config.moved import MOVED

__all__ = ["explain"]

NOISE = re.compile(  # of jsonargparse, about types
    r"\s*(Does not validate against|Subtypes: |Errors:|(- )?Expected a <class 'NoneType'>|"
    r"Given value( type:|: [{\[N])|- Expected a path but|Subclass types expect|"
    r"- a (class path|dict)|$)"
)
RENAMED = {  # class paths in configurations of older versions
    "mbls.losses.LabelSmoothingLoss": "mbls.losses.CrossEntropyLoss, its alpha label_smoothing,",
    "mbls.losses.NeighbourConstraint": "mbls.losses.NeighborConstraint",
}


def explain(text: str, *, options: Iterable[str], configs: Sequence[str | Path] = ()) -> str:
    """Return a short message for an error of jsonargparse.

    Args:
        text: The text of the error.
        options: Names of all options, such as ``trainer.max_epochs``.
        configs: The configuration files that were given.
    """
    files = [path for config in configs if (path := Path(config)).suffix and path.is_file()]
    if found := re.search(r"unrecognized arguments: (.*)", text, re.DOTALL):
        names = [arg.partition("=")[0] for arg in found[1].split()]
        name = next((name for name in names if name.startswith("--")), names[0])
        group, _, field = name.removeprefix("--").partition(".")
        cls = _class_of(text, found)
        if fields := _fields(cls, group):
            hint = did_you_mean(field, fields, cutoff=0.5)
            return f"Unknown setting {field!r} of {group}.{hint}"
        if arguments := _settings(cls):
            hint = did_you_mean(group, arguments, cutoff=0.5)
            return f"Unknown setting {group!r} of {cls}.{hint}"
        hint = did_you_mean(name, [f"--{option}" for option in options]).replace("'", "")
        return f"Unknown option {name}.{hint}"
    if found := re.search(r"does not accept option '([^']+)'", text):
        where = _place(files, key=found[1].rpartition(".")[2])
        named = re.search(r"Group '([^']+)' does not", text)
        if named and (fields := _fields(_class_of(text, found), named[1])):
            hint = did_you_mean(found[1], fields, cutoff=0.5)
            return f"Unknown setting {found[1]!r} of {named[1]}{where}.{hint}"
        return f"Unknown setting {found[1]!r}{where}.{did_you_mean(found[1], options)}"
    misplaced = "Not a valid subclass of" in text or "Option 'class_path' is not accepted" in text
    if misplaced and (message := _next_to_class_path(files)):
        return message
    if found := re.search(r"Option '([^']+)' is not accepted", text):
        cls, name = _class_of(text, found), found[1]
        group, field = MOVED.get(name, ("", ""))
        if group in _settings(cls):
            where = _place(files, argument=name)
            return f"data.init_args.{name}{where} is now data.init_args.{group}.{field}."
        where = _place(files, key=name)
        hint = did_you_mean(name, _settings(cls), cutoff=0.5)
        return f"Unknown setting {name!r} of {cls}{where}.{hint}"
    if found := re.search(r"No module named '([^']+)'", text):
        cls = _class_of(text, found)
        return _no_module(found[1], cls, _place(files, value=cls))
    if found := re.search(r"module '([^']+)' has no attribute '([^']+)'", text):
        cls = f"{found[1]}.{found[2]}"
        module = importlib.import_module(found[1])
        hint = did_you_mean(found[2], {*dir(module), *getattr(module, "__all__", ())})
        hint = f" It is {RENAMED[cls]} now." if cls in RENAMED else hint
        return f"There is no {cls}{_place(files, value=cls)}.{hint}"
    lines = [line.strip()[:300] for line in text.splitlines() if not NOISE.match(line)]
    return "\n  ".join(lines) or text


def _class_of(text: str, found: re.Match[str]) -> str:
    """Return the class path nearest to a match in the text of an error."""
    before = re.findall(r"class_path '([^']+)'", text[: found.start()])
    after = re.findall(r"class_path='([^']+)'", text[found.end() :])
    return (before[-1:] or after[:1] or ["?"])[0]


def _fields(class_path: str, group: str) -> list[str]:
    """Return the fields of a dataclass that is an argument's default, none if there is no such."""
    for found in _parameters(class_path):
        if found.name == group and dataclasses.is_dataclass(found.default):
            return [field.name for field in dataclasses.fields(found.default)]
    return []


def _settings(class_path: str) -> list[str]:
    """Return the arguments of a class, including those of its bases if it takes ``**kwargs``."""
    return [found.name for found in _parameters(class_path)]


def _parameters(class_path: str) -> list[inspect.Parameter]:
    module, _, name = class_path.rpartition(".")
    found: list[inspect.Parameter] = []
    try:
        made = getattr(importlib.import_module(module), name)
        for step in made.__mro__ if inspect.isclass(made) else [made]:
            call = vars(step).get("__init__") if inspect.isclass(step) else step
            parameters = inspect.signature(call).parameters.values() if call else ()
            found += [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
            if call and not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    except (ImportError, AttributeError, TypeError, ValueError):  # not a Python class
        return found
    return found


def _no_module(module: str, class_path: str, where: str) -> str:
    package = class_path.partition(".")[0]
    if module.partition(".")[0] != package:
        return f"{class_path}{where} cannot be imported: it needs {module}, which is not installed."
    listed = os.environ.get("PYTHONPATH") or "not set"
    return (
        f"{class_path}{where} cannot be imported: there is no module {module} in the folder where "
        f"mbls runs ({Path.cwd()}), on PYTHONPATH ({listed}) or among the installed packages. Run "
        f"mbls in the folder that contains {package}, or set PYTHONPATH to that folder."
    )


def _place(
    files: Sequence[Path],
    *,
    key: str | None = None,
    value: str | None = None,
    argument: str | None = None,
) -> str:
    """Return `` (livers.yaml, line 9)`` for the last file with a key, class path or argument.

    An argument is a key directly below init_args.
    """
    for file in reversed(files):
        for name, node in _keys(_nodes(file)):
            of_class = name.value == "class_path" and getattr(node, "value", None) == value
            if name.value == key or (value is not None and of_class):
                return f" ({file}, line {name.start_mark.line + 1})"
            if name.value == "init_args" and isinstance(node, yaml.MappingNode):
                for inner, _ in node.value:
                    if inner.value == argument:
                        return f" ({file}, line {inner.start_mark.line + 1})"
    return ""


def _next_to_class_path(files: Sequence[Path]) -> str | None:
    """Return the message for an argument next to class_path instead of below init_args."""
    for file in reversed(files):
        for node in [_nodes(file), *(node for _, node in _keys(_nodes(file)))]:
            if not isinstance(node, yaml.MappingNode):
                continue
            names = {key.value: key for key, _ in node.value}
            if "class_path" not in names:
                continue
            for name in names.keys() - {"class_path", "init_args", "dict_kwargs"}:
                line = names[name].start_mark.line + 1
                return (
                    f"{file}, line {line}: {name!r} is next to class_path. Move it below init_args."
                )
    return None


def _nodes(file: Path) -> yaml.Node | None:
    return yaml.compose(file.read_text(), SafeLoader)


def _keys(node: yaml.Node | None) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key, value
            yield from _keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _keys(item)
