"""``mbls data`` and ``mbls check-data``: the datamodule of a dataset's YAML, without a network."""

import argparse
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mbls.config.choices import choices, choose, data_files, read_yaml
from mbls.config.wrong_words import explain, refuse_unknown
from mbls.runtime.errors import UsageError, settings_told

__all__ = ["datamodule", "main", "parser"]


def main(args: list[str]) -> int:
    """Write the phantom where no data is given, and build the cache."""
    p = parser("mbls data", main.__doc__)
    options, rest = p.parse_known_args(args)
    refuse_unknown(rest, p)
    data = datamodule(options, rest)
    data.prepare()
    return 0


def parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of the commands that want a dataset."""
    p = argparse.ArgumentParser(prog=prog, allow_abbrev=False, description=description,
                                usage="%(prog)s [options]")  # fmt: skip
    p.add_argument("--dataset", metavar="NAME", required=True, help=", ".join(choices("data")))
    p.add_argument("--data-root", type=Path, metavar="FOLDER", help="the dataset's folder")
    p.add_argument("--preset", metavar="NAME", help="settings whose cache is meant")
    p.add_argument("--dim", type=int, choices=(2, 3), help="for slices or for volumes")
    return p


def datamodule(options: argparse.Namespace, rest: list[str]) -> Any:
    """Instantiate the datamodule of ``--dataset``.

    Args:
        options: What :func:`parser` parsed.
        rest: Further words for the datamodule, ``--data.init_args.<name> <value>``.
    """
    choose("data", options.dataset)
    preset = options.preset or ("quick" if options.data_root is None else "paper")
    choose("trainer", preset)
    files = data_files(options.dataset, preset, options.dim)
    root = options.data_root
    words = [] if root is None else ["--data.init_args.root", str(root)]
    return datamodule_of([str(file) for file in files], [*words, *rest])


def datamodule_of(configs: Sequence[str], words: Sequence[str]) -> Any:
    """Instantiate the datamodule of ``--config`` files, or of their text, and further words.

    Raises:
        ChoiceError: A file that is no YAML, or a setting that does not exist.
        SettingError: A setting that the datamodule refuses.
    """
    from jsonargparse import ArgumentParser
    from lightning.pytorch import LightningDataModule

    files = [config for config in configs if not config.startswith("{")]
    for file in files:
        read_yaml(Path(file))  # which names the file and the line of what is no YAML
    p = ArgumentParser(prog="mbls data", allow_abbrev=False, exit_on_error=False)
    p.add_argument("--config", action="config")
    p.add_subclass_arguments(LightningDataModule, "data", required=True)
    layers = [word for config in configs for word in ("--config", config)]
    try:
        stated = p.parse_args([*layers, *words])
    except ArgumentError as error:
        options = [word.removeprefix("--") for word in p._option_string_actions]
        raise UsageError(explain(str(error), options=options, configs=files)) from error
    with settings_told():
        return p.instantiate(stated).data
