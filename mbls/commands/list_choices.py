"""``mbls list``: list datasets, losses, networks, presets and trackers."""

import argparse
import sys

from mbls.config.choices import choices

__all__ = ["main"]

LABELS = {
    "data": "DATASET",
    "loss": "LOSS",
    "network": "NETWORK",
    "trainer": "PRESET",
    "logger": "LOGGER",
}


def main(args: list[str]) -> int:
    """Print the names of each kind on one line."""
    argparse.ArgumentParser(prog="mbls list", description=main.__doc__).parse_args(args)
    for kind, label in LABELS.items():
        sys.stdout.write(f"{label:<8} {' '.join(choices(kind))}\n")
    return 0
