"""``mbls report RUNS``: tables, figures and one HTML file over finished runs."""

import os
import shlex
from pathlib import Path

from mbls.config.options import parse, parser
from mbls.runtime.errors import UsageError
from mbls.runtime.ranks import print_once

__all__ = ["main"]

ABOUT = """Compare finished runs: means over seeds, intervals over patients, tests over both. Runs
that were tested on other data or another grid get tables of their own."""


def main(args: list[str]) -> int:
    """Write a report over all runs in or below some folders."""
    options, rest = parse(parser("report", ABOUT), args)
    if rest:
        raise UsageError(f"Unknown option --{rest[0][0]}. See mbls report --help.")
    output = options.output or common_parent(options.runs) / "report"
    folders = f"{len(options.runs)} folder{'s' * (len(options.runs) > 1)}"
    print_once(f"Report on {folders}, to be written to {output}")

    from mbls.report.build import build_report

    build_report(
        options.runs, output, reference=options.reference, tag=options.tag or "best",
        command=shlex.join(["mbls", "report", *args]),
        captions=not options.no_captions, pictures=not options.no_pictures,
    )  # fmt: skip
    return 0


def common_parent(places: list[Path]) -> Path:
    """Return the folder above all places; of a single one, be it a run folder, itself."""
    if len(places) == 1:
        return places[0]
    return Path(os.path.commonpath([str(place) for place in places]))
