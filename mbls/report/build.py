"""Build a report: read the runs, analyze, print and write the files."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from mbls.metrics.bootstrap import DRAWS
from mbls.plots import save_figure
from mbls.report.analysis import Analysis, analyze, reference_arm, reference_error
from mbls.report.decisions import decision_views
from mbls.report.figures import FIGURE_FILE, figures_of
from mbls.report.groups import Group, differing, groups_of
from mbls.report.html import html_text
from mbls.report.runs import LeftOut, find_runs
from mbls.report.screen import screen_table
from mbls.report.text import csv_text, latex_text, markdown_text
from mbls.report.views import (
    View,
    comparison_view,
    reruns_sentence,
    reruns_view,
    scope,
    section_view,
    selection_view,
)
from mbls.runtime.errors import OutputError, ReportError, RunFolderError
from mbls.runtime.files import INCOMING, replace_files, writing
from mbls.runtime.locks import LOCK, locked_folder

__all__ = ["build_report"]

MARK = "report.html"
PATIENCE = 60.0  # seconds to wait for another report that is being written


def build_report(
    places: Sequence[Path],
    output: Path,
    *,
    reference: str | None = None,
    tag: str = "best",
    command: str = "mbls report",
    draws: int = DRAWS,
    captions: bool = True,
    pictures: bool = True,
) -> list[Analysis]:
    """Write a report over all runs in or below ``places``, and print its main tables.

    The files replace those of an earlier report together.

    Args:
        places: Run folders, or folders above them.
        output: Folder for ``report.html``, ``table.md``, ``table.tex``, ``table.csv`` and the
            figures as PNG and PDF.
        reference: Loss that the others are compared with.
        tag: The test of each run.
        command: The command line, which is shown in the report.
        draws: Bootstrap draws of patients for the intervals.
        captions: If True, figures contain their captions; if False, ``report.html`` has them.
        pictures: If True, show slices of the worst cases.

    Raises:
        ReportError: There is nothing to report, or ``output`` cannot be written, contains other
            files, or is being written by another report.
    """
    refuse_other_content(output)
    runs, left_out = find_runs(places, tag=tag)
    groups, repeated = groups_of(runs)
    groups, lone = _with_patients(groups)
    left_out += [*repeated, *lone]
    if reference is not None and not any(reference_arm(group, reference) for group in groups):
        names = dict.fromkeys(arm.name for group in groups for arm in group.arms)
        raise reference_error(list(names), reference)
    analyses = [analyze(group, reference=reference, draws=draws) for group in groups]
    prefixes = [f"group{n}_" for n in range(1, 1 + len(groups))] if len(groups) > 1 else [""]
    draw = partial(figures_of, captions=captions, pictures=pictures)
    figures = [
        [replace(drawn, name=f"{prefix}{drawn.name}") for drawn in draw(analysis)]
        for prefix, analysis in zip(prefixes, analyses, strict=True)
    ]
    tables = [views_of(analysis) for analysis in analyses]
    with _staging_folder(output) as incoming:
        views = list(itertools.chain(*tables))
        (incoming / "table.md").write_text(markdown_text(views))
        (incoming / "table.tex").write_text(latex_text(views))
        (incoming / "table.csv").write_text(csv_text(analyses))
        for drawn in itertools.chain(*figures):
            save_figure(drawn.figure, incoming / drawn.name)
        page = html_text(analyses, tables, figures, left_out, command=command)
        (incoming / MARK).write_text(page)
    show(analyses, tables, left_out, output)
    return analyses


def refuse_other_content(output: Path) -> None:
    """Raise ReportError if a folder is not empty and does not contain a report."""
    if not output.exists():
        return
    if not output.is_dir():
        raise ReportError(f"{output} is a file. Choose a folder: --output FOLDER (make: OUTPUT=).")
    there = {path.name for path in output.iterdir()} - {LOCK}
    incomplete = any(name.endswith(f".{INCOMING}") for name in there)  # of a killed report
    if there and not incomplete and not there & {MARK, "table.csv"}:
        raise ReportError(
            f"{output} contains {len(there)} files or folders ({min(there)}, ...) but no report. "
            "Choose another: --output FOLDER (make: OUTPUT=FOLDER)."
        )


@contextmanager
def _staging_folder(output: Path) -> Iterator[Path]:
    """Yield a temporary folder whose files replace those of an earlier report at the end.

    Raises:
        ReportError: The files cannot be written, or another process has locked the folder.
    """
    try:
        with writing(output):
            output.mkdir(parents=True, exist_ok=True)
        with (
            locked_folder(output, patience=PATIENCE),
            writing(output),
            replace_files(output, mark=MARK) as incoming,
        ):
            yield incoming
            for earlier in output.iterdir():  # figures that this report does not have
                if FIGURE_FILE.fullmatch(earlier.name) and not (incoming / earlier.name).exists():
                    earlier.unlink()
    except (OutputError, RunFolderError) as error:
        reason = error.__cause__
        named = (
            f"cannot be written ({reason.strerror})"
            if isinstance(reason, OSError)
            else "is being written by another process"
        )
        raise ReportError(
            f"{output} {named}. Choose another: --output FOLDER (make: OUTPUT=FOLDER)."
        ) from error


def _with_patients(groups: Sequence[Group]) -> tuple[list[Group], list[LeftOut]]:
    """Return the groups that were tested on at least two patients, and the runs of the others."""
    reason = "tested on one patient; intervals and tests over patients need at least two"
    kept = [group for group in groups if len(set(group.first.patients)) > 1]
    lone = [group for group in groups if group not in kept]
    runs = [run for group in lone for arm in group.arms for run in arm.trainings]
    if not kept:
        raise ReportError(f"No run can be reported: {runs[0].folder} was {reason}.")
    return kept, [LeftOut(run.folder, reason) for run in runs]


def views_of(analysis: Analysis) -> list[View]:
    """Return all tables of a group, in order."""
    views = [section_view(analysis, section) for section in analysis.sections]
    compared = [comparison_view(analysis, s) for s in analysis.sections if s.lead]
    views += [view for view in compared if len(view.frame)]
    views += [v for v in (reruns_view(analysis), selection_view(analysis)) if v]
    return views + decision_views(analysis)


def show(
    analyses: Sequence[Analysis],
    tables: Sequence[Sequence[View]],
    left_out: Sequence[LeftOut],
    output: Path,
) -> None:
    """Print the main tables, cautions, runs that were left out, and the path of the report."""
    console = Console()

    def print_once(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    for number, (analysis, views) in enumerate(zip(analyses, tables, strict=True), 1):
        print_once(f"\nGroup {number}, {scope(analysis)}" if len(analyses) > 1 else "")
        if number > 1:
            reasons = "; ".join(differing(analyses[0].group, analysis.group))
            print_once(f"Must not be compared with group 1: {reasons}.")
        shown = [view for view in views if view.lead]
        for table in (table for view in shown for table in screen_table(view)):
            console.print(table)
        print_once(" ".join(dict.fromkeys(text for view in shown for text in view.legend)))
        if text := reruns_sentence(analysis):
            print_once(text)
        for text in (*analysis.cautions, *analysis.group.notes):
            print_once(f"! {text}")
    for out in left_out:
        print_once(f"Left out: {out.folder}: {out.reason}")
    console.print(
        f"Report: {output / 'report.html'}", soft_wrap=True, markup=False, highlight=False
    )
