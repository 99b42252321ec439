"""``mbls data``: write the phantom and the cache of a dataset."""

import argparse
import json
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mbls.config.choices import choose, data_files, read_yaml
from mbls.config.options import Settings, overrides, parse, parser, to_argv, with_nulls
from mbls.config.parse_errors import explain
from mbls.config.runs import require
from mbls.runtime.errors import UsageError, setting_errors

__all__ = ["datamodule_of", "main", "parse_dataset"]


def main(args: list[str]) -> int:
    """Write the phantom if no data is given, and build the cache."""
    _, settings = parse_dataset("data", main.__doc__, args)
    datamodule_of(settings).prepare()
    return 0


def parse_dataset(
    command: str, about: str | None, args: Sequence[str]
) -> tuple[argparse.Namespace, Settings]:
    """Return the options of a command that takes a dataset, and the datamodule's settings."""
    options, rest = parse(parser(command, about), args)
    require(options, "dataset")
    choose("data", options.dataset)
    preset = options.preset or ("quick" if options.data_root is None else "paper")
    choose("trainer", preset)
    files = data_files(options.dataset, preset, options.dim)
    return options, [*(("config", str(file)) for file in files), *overrides(options), *rest]


def datamodule_of(settings: Settings) -> Any:
    """Instantiate the datamodule from its part of the settings.

    Raises:
        ChoiceError: A file is not YAML, or a setting does not exist.
        SettingError: The datamodule rejects a setting.
    """
    from jsonargparse import ArgumentParser
    from lightning.pytorch import LightningDataModule

    files = [str(value) for name, value in settings if name == "config"]
    p = ArgumentParser(prog="mbls data", allow_abbrev=False, exit_on_error=False)
    p.add_argument("--config", action="config")
    p.add_subclass_arguments(LightningDataModule, "data", required=True)
    try:
        parsed = p.parse_args(with_nulls(to_argv(_of_data(settings))))
    except ArgumentError as error:
        options = [flag.removeprefix("--") for flag in p._option_string_actions]
        raise UsageError(explain(str(error), options=options, configs=files)) from error
    with setting_errors():
        return p.instantiate(parsed).data


def _of_data(settings: Settings) -> Settings:
    """Return the datamodule's settings; the part of each file is JSON."""
    found: Settings = []
    for name, value in settings:
        if name == "config" and "data" in (content := read_yaml(Path(str(value)))):
            found.append((name, json.dumps({"data": content["data"]})))
        elif name == "data" or name.startswith("data."):
            found.append((name, value))
    return found
