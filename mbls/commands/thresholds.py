"""``mbls thresholds RUN``: choose a threshold for each structure, report what it gives."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbls.commands.calibrate import is_tested, patient_groups_of
from mbls.commands.evaluate import main as evaluate
from mbls.commands.evaluate import run_settings, tag_of
from mbls.config.ensembles import members_of, refuse_shared_validation
from mbls.config.moved import read_run_config
from mbls.config.options import Settings, overrides, parse, parser, to_argv
from mbls.runtime.errors import RunFolderError, UsageError
from mbls.runtime.files import read_card, replace_file, writing
from mbls.runtime.ranks import print_once

if TYPE_CHECKING:
    from mbls.decisions import Target
    from mbls.decisions.comparison import Comparison
    from mbls.evaluation import TestRun

__all__ = ["count_validation", "main", "thresholds_of_run"]

ABOUT = """Choose a threshold for each class and union on the validation patients of a run, and
report Dice, precision and recall on its test patients beside the predicted classes. Several runs
are also drawn side by side."""
FOLDER = "decisions"
TAG = "best"


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
    from mbls.evaluation import TestRun

    if "audit" in _card(run):
        test = TestRun.load(run / "test" / TAG / "bins.npz")
        chosen, tag = choose(test, target), TAG
        own, how = patient_groups_of(test.patients, None, groups)
        found = compare_cross_fitted(test, target, own)
        note = f"Each case has thresholds that were chosen without {how}."
    else:
        refuse_shared_validation(run)
        tag = tag_of(TAG, given, read_run_config(run / "config.yaml"))
        validation = count_validation(run, tag, given)
        if not is_tested(run / "test" / tag, validation.meta.get("predictor")):
            evaluate([str(run), *to_argv([("results.show", "false"), *given])])
        test = TestRun.load(run / "test" / tag / "bins.npz")
        chosen = choose(validation, target)
        found = compare(test, chosen)
        number = len(chosen.patients)
        note = f"Chosen on {number} validation patient{'s'[: number != 1]}."
    folder = decisions_folder(run, tag)
    chosen.save(folder / f"{chosen.name}.json")
    write_results(folder, chosen.name, test, found, note=f"Target {target.text}. {note}")
    show(found, test, title=f"{run}: thresholds for {target.text}", note=note)
    print_once(f"Thresholds: {folder / chosen.name}.json, its figure and CSV beside it")
    return test


def count_validation(run: Path, tag: str, given: Settings) -> "TestRun":
    """Return the counts of the validation patients, from one pass of the network over them.

    They are kept in ``val-bins.npz`` of :func:`decisions_folder`, and counted again if a checkpoint
    or the calibrator is newer.
    """
    from mbls.config.cli import command_line
    from mbls.evaluation import TestRun

    file = decisions_folder(run, tag) / "val-bins.npz"
    settings = run_settings(run, TAG)
    if not file.is_file() or file.stat().st_mtime < max(_sources(run, [*settings, *given])):
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        settings += [
            ("trainer.devices", "1"),  # one process counts all cases
            ("trainer.num_nodes", "1"),
            ("post_hoc.count", str(file)),
            ("verbose", "false"),
        ]
        command_line(["validate", *to_argv([*settings, *given])])
    return TestRun.load(file)


def decisions_folder(run: Path, tag: str) -> Path:
    """Return ``RUN/decisions``, of another test than ``best`` a folder with its name below it."""
    return run / FOLDER if tag == TAG else run / FOLDER / tag


def _sources(run: Path, settings: Settings) -> list[float]:
    """Return when the files were written that the counts of a validation follow from."""
    named = [Path(value) for key, value in settings
             if value and key in ("ckpt_path", "post_hoc.calibrator")]  # fmt: skip
    members = [m if m.is_file() else m / "checkpoints" / f"{TAG}.ckpt" for m in members_of(run)]
    return [path.stat().st_mtime for path in (*named, *members) if path.is_file()]


def _card(run: Path) -> dict[str, Any]:
    """Return the content of ``run.json``.

    Raises:
        RunFolderError: There is none.
    """
    if not (run / "run.json").is_file():
        regions = sorted(card.parent.name for card in run.glob("*/run.json"))
        hint = f" It has the regions {', '.join(regions)}: name one of them." if regions else ""
        raise RunFolderError(f"{run} is not a run folder: it has no run.json.{hint}")
    return read_card(run)


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
    labels = run_names(tests)
    curves = {labels[run]: curves_of(test) for run, test in tests.items()}
    figure = thresholds_across_figure(
        curves, THRESHOLDS, caption=[figure_title(list(tests.values()))]
    )
    folder = output or common_parent([run.resolve().parent for run in tests]) / "thresholds"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_figure(figure, folder / "thresholds")
    print_once(f"Side by side: {folder / 'thresholds.png'}")


def run_names(tests: Mapping[Path, "TestRun"]) -> dict[Path, str]:
    """Return a name for each run: its loss, with seed and folder where these are needed."""
    forms = ("{loss}", "{loss}, seed {seed}", "{folder}")
    for form in forms:
        found = {
            run: form.format(loss=t.meta.get("loss"), seed=t.meta.get("seed"), folder=run)
            for run, t in tests.items()
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
