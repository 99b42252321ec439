"""``mbls report RUNS``: tables, figures and one HTML file over finished runs."""

import argparse
import os
import shlex
from pathlib import Path

from mbls.runtime.ranks import say

__all__ = ["main"]


def main(args: list[str]) -> int:
    """Write a report over all runs in or below some folders."""
    p = argparse.ArgumentParser(
        prog="mbls report",
        allow_abbrev=False,
        description="Compare finished runs: means over seeds, intervals over patients, tests over "
        "both. Runs that were tested on other data or another grid get tables of their own.",
    )
    p.add_argument("runs", nargs="+", type=Path, help="run folders, or folders above them")
    p.add_argument("--output", type=Path, metavar="FOLDER",
                   help="where to write (default: report/ in RUNS, or above several)")  # fmt: skip
    p.add_argument("--reference", metavar="LOSS", help="loss that the others are compared with")
    p.add_argument("--tag", default="best", help="which test of each run (default: best)")
    p.add_argument("--no-captions", action="store_true",
                   help="figures without the lines above them, for a paper")  # fmt: skip
    p.add_argument("--no-pictures", action="store_true",
                   help="no slices of patients: without the worst cases")  # fmt: skip
    options = p.parse_args(args)
    output = options.output or common_parent(options.runs) / "report"
    folders = f"{len(options.runs)} folder{'s' * (len(options.runs) > 1)}"
    say(f"Report on {folders}, to be written to {output}")

    from mbls.report.build import build_report

    build_report(
        options.runs, output, reference=options.reference, tag=options.tag,
        command=shlex.join(["mbls", "report", *args]),
        captions=not options.no_captions, pictures=not options.no_pictures,
    )  # fmt: skip
    return 0


def common_parent(places: list[Path]) -> Path:
    """Return the folder above all places; of a single one, be it a run folder, itself."""
    if len(places) == 1:
        return places[0]
    return Path(os.path.commonpath([str(place) for place in places]))
