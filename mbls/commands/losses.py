"""``mbls losses``: print the table of losses."""

import argparse

from rich.console import Console

from mbls.config.choices import config_folder
from mbls.losses.catalogue import loss_table

__all__ = ["main"]


def main(args: list[str]) -> int:
    """Print name, class, formula, defaults and paper of each loss."""
    argparse.ArgumentParser(prog="mbls losses", description=main.__doc__).parse_args(args)
    Console().print(loss_table(config_folder() / "loss"))
    return 0
