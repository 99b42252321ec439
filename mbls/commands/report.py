"""``mbls report RUNS``: compare finished runs in tables, figures and an HTML file."""

import os
import shlex
from pathlib import Path

from mbls.config.options import parse, parser
from mbls.runtime.errors import UsageError
from mbls.runtime.ranks import print_once

__all__ = ["main"]

ABOUT = """Compare finished runs: means over seeds, intervals over patients, tests over both. Runs
that were tested on different data or grids are in separate tables."""


def main(args: list[str]) -> int:
    """Report on all runs in or below the folders."""
    options, rest = parse(parser("report", ABOUT), args)
    if rest:
        raise UsageError(f"Unknown option --{rest[0][0]}. See mbls report --help.")
    output = options.output or common_parent(options.runs) / "report"
    folders = f"{len(options.runs)} folder{'s' * (len(options.runs) > 1)}"
    print_once(f"Reporting on {folders} to {output}")

    from mbls.report.build import build_report

    build_report(
        options.runs, output, reference=options.reference, tag=options.tag or "best",
        command=shlex.join(["mbls", "report", *args]),
        captions=not options.no_captions, pictures=not options.no_pictures,
    )  # fmt: skip
    return 0


def common_parent(places: list[Path]) -> Path:
    """Return the common folder of several paths, or the path itself if there is one."""
    if len(places) == 1:
        return places[0]
    return Path(os.path.commonpath([str(place) for place in places]))
