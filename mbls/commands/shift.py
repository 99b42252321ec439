"""``mbls shift RUN``: tests of corrupted images, and their Dice and calibration as curves."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbls.commands.decisions import count_validation, decisions_folder, sources
from mbls.commands.evaluate import main as evaluate
from mbls.commands.evaluate import run_settings, tag_of
from mbls.config.ensembles import members_of
from mbls.config.moved import read_run_config
from mbls.config.options import Settings, overrides, parse, parser, to_argv
from mbls.runtime.errors import UsageError
from mbls.runtime.files import read_card, replace_file, writing
from mbls.runtime.ranks import print_once

if TYPE_CHECKING:
    from mbls.decisions import Target
    from mbls.decisions.shift import Promised, Shifted
    from mbls.evaluation import TestRun
    from mbls.evaluation.corruptions import Corrupted

__all__ = ["main"]

ABOUT = """Test a run, or several, on images that are corrupted at stated strengths (noise, bias
field, blur, gamma, resolution, a missing modality), and draw Dice and calibration over them. Tests
that are done are not repeated."""
NAME = "shift"
TAG = "best"


def main(args: list[str]) -> int:
    """Test at all levels, and write the curves as a table, CSV and figure."""
    options, rest = parse(parser(NAME, ABOUT), args)
    if (options.run is None) == (options.runs is None):
        raise UsageError('Name one run folder (RUN=), or several: --runs "A B" (RUNS="A B").')
    if options.output is not None and options.runs is None:
        raise UsageError("OUTPUT (--output) is of several RUNS: leave it out.")
    from mbls.decisions import Target

    runs = [options.run] if options.runs is None else options.runs
    given = [*overrides(options), *rest]
    target = None if options.target is None else Target.parse(options.target)
    corruptions = corruptions_for(runs, options.corruptions)
    names = [None] if options.calibrator is None else [None, options.calibrator]
    rows: list[Shifted] = []
    tests: list[TestRun] = []
    for line, run, own in lines(runs, names, given):
        promised = promises(run, own, target, options.alpha)
        curve: list[Shifted] = []
        for corrupted, place in tested(run, own, corruptions):
            test = _load(place)
            tests += [] if corrupted else [test]
            curve.append(shifted(line, corrupted, place, test, promised))
        write_rows(folder_of(run, own), curve)
        rows += curve
    folder = folder_of(runs[0], given)
    if options.runs is not None:
        from mbls.commands.report import common_parent

        folder = options.output or common_parent([run.resolve().parent for run in runs]) / NAME
        write_rows(folder, rows)
    draw(folder, rows, tests, target, options.alpha)
    print_once(f"Curves: {folder / NAME}.png; all numbers: {NAME}.csv in RUN/decisions")
    return 0


def folder_of(run: Path, given: Settings) -> Path:
    """Return the folder of the decisions of a test."""
    return decisions_folder(run, tag_of(TAG, given, config_of(run)))


def lines(
    runs: Sequence[Path], calibrators: Sequence[str | None], given: Settings
) -> list[tuple[str, Path, Settings]]:
    """Return a name for the legend, the run and the settings of the tests of each curve.

    Raises:
        UsageError: A run has no such calibrator.
    """
    from mbls.commands.thresholds import run_names

    names = run_names({run: read_card(run) for run in runs})
    return [
        (
            names[run] + ("" if calibrator is None else f"+{short_name(Path(calibrator).stem)}"),
            run,
            [*given, *calibrator_of(run, calibrator, given)],
        )
        for run in runs
        for calibrator in calibrators
    ]


def short_name(calibrator: str) -> str:
    """Return the name of a calibrator in tables, ``ts`` for a temperature."""
    from mbls.report.runs import SHORT

    return SHORT.get(calibrator, calibrator)


def config_of(run: Path) -> dict[str, Any]:
    """Return the configuration of a run.

    Raises:
        RunFolderError: It is not a run folder.
    """
    run_settings(run, TAG)
    return read_run_config(run / "config.yaml")


def corruptions_for(runs: Sequence[Path], wanted: str | None) -> "list[Corrupted]":
    """Return the corruptions with all their levels; a missing modality only of several.

    Raises:
        SettingError: There is no such corruption, or no channel to leave out.
    """
    from mbls.commands.data import datamodule_of
    from mbls.evaluation.corruptions import (
        CORRUPTIONS,
        LEVELS,
        MISSING,
        Corrupted,
        check_channel,
        check_name,
    )

    names = list(CORRUPTIONS) if wanted is None else wanted.replace(",", " ").split()
    for name in names:
        check_name(name)
    for run in runs:
        config_of(run)
    channels = 1
    if MISSING in names:
        first = (members_of(runs[0]) or [runs[0]])[0]
        config = (first if first.is_dir() else first.parents[1]) / "config.yaml"
        channels = datamodule_of([("config", str(config))]).in_channels
        if wanted is not None:
            check_channel(Corrupted(MISSING, 1), channels)
    found = []
    for name in names:
        levels: Sequence[int] = LEVELS
        if name == MISSING:
            levels = range(1, channels + 1) if channels > 1 else ()
        found += [Corrupted(name, level) for level in levels]
    return found


def calibrator_of(run: Path, name: str | None, given: Settings) -> Settings:
    """Return the setting of a calibrator: a file, or the method of one of the run's.

    Raises:
        UsageError: The run has none of this method.
    """
    if name is None:
        return []
    tag = tag_of(TAG, given, config_of(run))
    own = run / "calibrators" / ("" if tag == TAG else tag) / f"{name}.json"
    file = Path(name) if Path(name).is_file() else own
    if not file.is_file():
        raise UsageError(
            f"CALIBRATOR (--calibrator) must be a file, or a method of {own.parent}, got {name!r}: "
            f"fit it with make calibrate RUN={run} METHOD={name}."
        )
    return [("post_hoc.calibrator", str(file))]


def tested(
    run: Path, given: Settings, corruptions: "Sequence[Corrupted]"
) -> "Iterator[tuple[Corrupted | None, Path]]":
    """Test where it has not been done, and yield the folder of each test, clean images first."""
    config, settings = config_of(run), run_settings(run, TAG)
    newest = max(sources(run, [*settings, *given]))
    predictor = None
    for corrupted in (None, *corruptions):
        own = [] if corrupted is None else [("corrupt.image", corrupted.text)]
        folder = run / "test" / tag_of(TAG, [*given, *own], config)
        expected = {} if corrupted is None else {"predictor": predictor, **corrupted.meta()}
        if not is_done(folder, newest, expected):
            if corrupted is not None:
                print_once(f"{run}: {corrupted.text}")
            quiet: Settings = [("results.show", "false")]
            if corrupted is not None:
                quiet += [("results.pictures", "0"), ("results.figures", "false")]
            evaluate([str(run), *to_argv([*quiet, *own, *given])])
        if corrupted is None:
            predictor = _meta(folder).get("predictor")
        yield corrupted, folder


def is_done(folder: Path, newest: float, expected: Mapping[str, Any]) -> bool:
    """Return True if a folder has the results of a test, not older than the weights.

    Args:
        folder: The folder.
        newest: When the weights or the calibrator were written.
        expected: Entries that the test's description must have.
    """
    files = [folder / name for name in ("metrics.json", "bins.npz")]
    if not all(file.is_file() and file.stat().st_mtime >= newest for file in files):
        return False
    try:
        meta = _meta(folder)
    except (OSError, ValueError, KeyError):
        return False
    return all(meta.get(key) == value for key, value in expected.items())


def promises(
    run: Path, given: Settings, target: "Target | None", alpha: float | None
) -> "Promised | None":
    """Return what is chosen on the validation patients, on images as they are."""
    from mbls.decisions import choose
    from mbls.decisions.shift import Promised

    if target is None and alpha is None:
        return None
    tag = tag_of(TAG, given, config_of(run))
    validation = count_validation(run, tag, given, needs=("voxel_ml",))
    thresholds = None if target is None else choose(validation, target)
    if alpha is None:
        return Promised(thresholds)
    return Promised(thresholds, validation, alpha)


def shifted(
    line: str,
    corrupted: "Corrupted | None",
    folder: Path,
    test: "TestRun",
    promised: "Promised | None",
) -> "Shifted":
    """Return the measures of a test's folder."""
    from mbls.decisions.shift import Shifted, shift_measures

    metrics = json.loads((folder / "metrics.json").read_text())
    values = shift_measures(metrics, test, promised)
    if corrupted is None:
        return Shifted(line, "", 0, 0.0, values)
    return Shifted(line, corrupted.name, corrupted.level, corrupted.strength, values)


def write_rows(folder: Path, rows: "Sequence[Shifted]") -> None:
    """Write the measures of tests as CSV."""
    import pandas as pd

    text = str(pd.DataFrame([row.row() for row in rows]).to_csv(index=False, lineterminator="\n"))
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / f"{NAME}.csv", text.encode())


def draw(
    folder: Path,
    rows: "Sequence[Shifted]",
    tests: "Sequence[TestRun]",
    target: "Target | None",
    alpha: float | None,
) -> None:
    """Draw the curves, and print the table."""
    from rich.console import Console

    from mbls.commands.thresholds import figure_title
    from mbls.decisions.shift import MEASURES, shift_table
    from mbls.evaluation.corruptions import CORRUPTIONS, MISSING
    from mbls.plots import save_figure
    from mbls.plots.shift import shift_figure

    measures = {name: MEASURES[name] for name in rows[0].values}
    if target is not None:
        measures["at_thresholds"] = f"{target.measure} at\n{target.text}"
    if alpha is not None:
        measures["coverage"] = f"volumes in\n{100 * (1 - alpha):g} % intervals"
    used = dict.fromkeys(row.corruption for row in rows if row.level)
    units = {name: CORRUPTIONS[name].unit for name in used}
    figure = shift_figure(
        rows, measures=measures, units=units, unordered=[MISSING], caption=[figure_title(tests)]
    )
    with writing(folder):
        save_figure(figure, folder / NAME)
    phantom = tests[0].meta["origin"] == "phantom"
    aim = None if target is None else target.text
    Console().print(shift_table(rows, target=aim, alpha=alpha, phantom=phantom))


def _meta(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "metrics.json").read_text())["meta"])


def _load(folder: Path) -> "TestRun":
    from mbls.evaluation import TestRun

    return TestRun.load(folder / "bins.npz")
