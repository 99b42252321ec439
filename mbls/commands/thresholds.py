"""``mbls thresholds RUN``: choose a threshold for each structure, report what it gives."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbls.commands.decisions import FOLDER, counted
from mbls.config.options import Settings, overrides, parse, parser
from mbls.runtime.errors import RunFolderError, UsageError
from mbls.runtime.files import replace_file, writing
from mbls.runtime.ranks import print_once

if TYPE_CHECKING:
    from mbls.decisions import Target
    from mbls.decisions.comparison import Comparison
    from mbls.evaluation import TestRun

__all__ = ["main", "thresholds_of_run"]

ABOUT = """Choose a threshold for each class and union on the validation patients of a run, and
report Dice, precision and recall on its test patients beside the predicted classes. Several runs
are also drawn side by side."""


def main(args: list[str]) -> int:
    """Choose thresholds, write them with curves and a figure, and print what they give."""
    options, rest = parse(parser("thresholds", ABOUT), args)
    if (options.run is None) == (options.runs is None):
        raise UsageError('Name one run folder (RUN=), or several: --runs "A B" (RUNS="A B").')
    if options.output is not None and options.runs is None:
        raise UsageError(
            "OUTPUT (--output) is of several RUNS: the files of a single run are in its folder "
            f"{FOLDER}/."
        )
    from mbls.decisions import Target

    target = Target.parse(options.target or "dice")
    given = [*overrides(options), *rest]
    runs = [options.run] if options.runs is None else options.runs
    tests = {run: thresholds_of_run(run, target, given, groups=options.groups) for run in runs}
    if options.runs is not None:
        side_by_side(tests, options.output)
    return 0


def thresholds_of_run(
    run: Path, target: "Target", given: Settings, *, groups: int | None = None
) -> "TestRun":
    """Choose thresholds, report on test patients, and return the counts of the test.

    Args:
        run: A run folder, or that of an audit, whose patients are cross-fitted.
        target: What thresholds are chosen for.
        given: Settings of the validation and the test.
        groups: Number of groups of a cross-fit.

    Raises:
        RunFolderError: It is not a run folder, or an audit of several regions.
        DecisionError: Validation and test have a patient in common.
    """
    from mbls.decisions import choose
    from mbls.decisions.comparison import compare, compare_cross_fitted

    counts = counted(run, given, groups=groups)
    test, folder = counts.test, counts.folder
    if counts.validation is None:
        assert counts.groups is not None
        chosen = choose(test, target)
        found = compare_cross_fitted(test, target, counts.groups)
    else:
        chosen = choose(counts.validation, target)
        found = compare(test, chosen)
    chosen.save(folder / f"{chosen.name}.json")
    note = f"Target {target.text}. {counts.chosen}"
    write_results(folder, chosen.name, test, found, note=note)
    show(found, test, title=f"{run}: thresholds for {target.text}", note=counts.chosen)
    print_once(f"Thresholds: {folder / chosen.name}.json, its figure and CSV beside it")
    return test


def write_results(
    folder: Path,
    name: str,
    test: "TestRun",
    found: Sequence["Comparison"],
    *,
    note: str,
) -> None:
    """Write the comparison and the curves of the test as CSV, and the figure.

    Args:
        folder: Where to.
        name: Of the target's files.
        test: The counts of the test.
        found: What the thresholds give.
        note: How they were chosen.
    """
    import pandas as pd

    from mbls.decisions import THRESHOLDS, curves_of
    from mbls.decisions.comparison import curve_rows
    from mbls.plots import save_figure
    from mbls.plots.thresholds import thresholds_figure

    curves = curves_of(test)
    rows = [curve_rows(curves, pooling="per_case")]
    rows.append(curve_rows(curves_of(test, pooling="pooled"), pooling="pooled"))
    own = pd.DataFrame([row for one in found for row in one.rows()])
    for stem, table in (("curves", pd.concat(rows)), (name, own)):
        text = str(table.to_csv(index=False, lineterminator="\n"))
        replace_file(folder / f"{stem}.csv", text.encode())
    figure = thresholds_figure(
        curves, THRESHOLDS,
        chosen={one.structure: one.threshold for one in found},
        argmax={one.structure: {c.name: c.before for c in one.changes} for one in found},
        caption=[figure_title([test]), note],
    )  # fmt: skip
    with writing(folder):
        save_figure(figure, folder / name)


def side_by_side(tests: Mapping[Path, "TestRun"], output: Path | None) -> None:
    """Draw recall, precision and Dice of several runs side by side.

    Raises:
        RunFolderError: The runs were tested on other patients or structures.
    """
    from mbls.commands.report import common_parent
    from mbls.decisions import THRESHOLDS, curves_of, structures_of
    from mbls.plots import save_figure
    from mbls.plots.thresholds import thresholds_across_figure

    alike = {(tuple(test.cases), tuple(structures_of(test).values())) for test in tests.values()}
    if len(alike) > 1:
        raise RunFolderError(
            "Runs that are drawn side by side must be tested on the same cases and structures, got "
            f"{len(alike)} different tests: {', '.join(map(str, tests))}."
        )
    labels = run_names({run: test.meta for run, test in tests.items()})
    curves = {labels[run]: curves_of(test) for run, test in tests.items()}
    figure = thresholds_across_figure(
        curves, THRESHOLDS, caption=[figure_title(list(tests.values()))]
    )
    folder = output or common_parent([run.resolve().parent for run in tests]) / "thresholds"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_figure(figure, folder / "thresholds")
    print_once(f"Side by side: {folder / 'thresholds.png'}")


def run_names(metas: Mapping[Path, Mapping[str, Any]]) -> dict[Path, str]:
    """Return a name for each run: its loss, with seed and folder where these are needed.

    Args:
        metas: Descriptions with ``loss`` and ``seed``, of tests or of runs.
    """
    forms = ("{loss}", "{loss}, seed {seed}", "{folder}")
    for form in forms:
        found = {
            run: form.format(loss=meta.get("loss"), seed=meta.get("seed"), folder=run)
            for run, meta in metas.items()
        }
        if len(set(found.values())) == len(found):
            break
    return found


def figure_title(tests: Sequence["TestRun"]) -> str:
    """Return the first line of a figure: the data, and the run if it is one."""
    from mbls.plots.labels import data_label, run_labels

    first = tests[0]
    counts = f"{len(first.cases)} cases of {len(set(first.patients))} patients"
    named = run_labels(first.meta) if len(tests) == 1 else []
    return " · ".join([f"{data_label(first.meta)}, {counts}", *named])


def show(found: Sequence["Comparison"], test: "TestRun", *, title: str, note: str) -> None:
    """Print what thresholds give on a test."""
    from rich.console import Console

    from mbls.decisions.comparison import comparison_table

    phantom = " PHANTOM: synthetic images." if test.meta["origin"] == "phantom" else ""
    caption = (
        f"{note} Each structure against the rest, mean of the cases of {len(set(test.patients))} "
        f"patients; change: 95 % interval over patients, too short where these are few.{phantom}"
    )
    Console().print(comparison_table(found, title=title, caption=caption))
