"""``mbls volumes RUN``: volumes in ml with an interval for each case, calibrated on others."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mbls.commands.decisions import counted
from mbls.commands.thresholds import figure_title
from mbls.config.options import Settings, overrides, parse, parser
from mbls.runtime.errors import UsageError
from mbls.runtime.files import replace_file, writing
from mbls.runtime.ranks import print_once

if TYPE_CHECKING:
    from mbls.decisions.volumes import Calibrated
    from mbls.evaluation import TestRun

__all__ = ["main", "volumes_of_run"]

ABOUT = """Report volumes in ml: the sum of the probabilities beside the predicted class, per class
and union, with an interval for each test case that is calibrated on validation patients. Of ACDC
also ejection fractions and mass."""
ALPHA = 0.1


def main(args: list[str]) -> int:
    """Calibrate intervals, write them with a figure, and print errors, coverage and width."""
    options, rest = parse(parser("volumes", ABOUT), args)
    if options.run is None:
        raise UsageError("Name a run folder: RUN=FOLDER (mbls volumes FOLDER).")
    alpha = ALPHA if options.alpha is None else options.alpha
    volumes_of_run(options.run, alpha, [*overrides(options), *rest], groups=options.groups)
    return 0


def volumes_of_run(
    run: Path, alpha: float, given: Settings, *, groups: int | None = None
) -> "list[Calibrated]":
    """Return each quantity on the test patients, and write what is reported.

    Args:
        run: A run folder, or that of an audit, whose patients are cross-fitted.
        alpha: Share of patients whose interval may miss.
        given: Settings of the validation and the test.
        groups: Number of groups of a cross-fit.

    Raises:
        RunFolderError: It is not a run folder, or an audit of several regions.
        DecisionError: Validation and test have a patient in common.
    """
    from mbls.decisions.quantities import quantities_of
    from mbls.decisions.volumes import calibrate, calibrate_groups

    counts = counted(run, given, groups=groups, needs=("voxel_ml",))
    tested = quantities_of(counts.test)
    if counts.validation is None:
        assert counts.groups is not None
        found = [calibrate_groups(one, counts.groups, alpha) for one in tested]
    else:
        pairs = zip(tested, quantities_of(counts.validation), strict=True)
        found = [calibrate(test, other, alpha) for test, other in pairs]
    write_results(counts.folder, counts.test, found, note=counts.chosen)
    show(found, counts.test, title=f"{run}: volumes", note=counts.chosen)
    print_once(f"Volumes: {counts.folder / 'volumes.csv'}, each case, figure and JSON beside it")
    return found


def write_results(
    folder: Path, test: "TestRun", found: "Sequence[Calibrated]", *, note: str
) -> None:
    """Write the summary, the cases, the quantiles and the figure."""
    import pandas as pd

    from mbls.plots import save_figure
    from mbls.plots.agreement import agreement_figure

    tables = {"volumes": pd.DataFrame([one.row() for one in found])}
    tables["volumes-cases"] = pd.concat([pd.DataFrame(one.cases()) for one in found])
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for stem, table in tables.items():
        text = str(table.to_csv(index=False, lineterminator="\n"))
        replace_file(folder / f"{stem}.csv", text.encode())
    content = {
        "alpha": found[0].alpha,
        "chosen": note,
        "quantiles": {one.quantity.name: _finite(one.quantile) for one in found},
        "patients": {one.quantity.name: one.number for one in found},
        "calibrator": test.meta.get("calibrator"),
        "predictor": test.meta.get("predictor"),
    }
    replace_file(folder / "volumes.json", (json.dumps(content, indent=1) + "\n").encode())
    titles = {f"{one.quantity.name}, {one.quantity.unit}": one.quantity for one in found}
    figure = agreement_figure(
        {name: {"expected": q.expected, "argmax": q.predicted} for name, q in titles.items()},
        {name: q.labeled for name, q in titles.items()},
        caption=[figure_title([test])],
    )
    with writing(folder):
        save_figure(figure, folder / "volumes")


def show(found: "Sequence[Calibrated]", test: "TestRun", *, title: str, note: str) -> None:
    """Print errors, coverage and width."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    alpha = found[0].alpha
    phantom = " PHANTOM: synthetic images." if test.meta["origin"] == "phantom" else ""
    caption = (
        f"{note} Expected: sum of the probabilities. Bias: estimate minus label, 95 % interval "
        f"over patients. An interval covers a patient if it contains the label in all of its "
        f"cases; {100 * (1 - alpha):g} % are promised; [95 %] is exact.{phantom}"
    )
    table = Table(title=escape(title), caption=escape(caption))
    for heading in ("quantity", "label", "estimate", "bias", "error", "covered", "width", "CRPS"):
        left = heading in ("quantity", "estimate")
        table.add_column(heading, justify="left" if left else "right")
    for one in found:
        row = one.row()
        reach = escape(f" [{row['coverage_low']:.2f}, {row['coverage_high']:.2f}]")
        interval = (f"{row['coverage']:.2f}{reach}", f"{row['width']:.1f}", f"{row['crps']:.2f}")
        for which in ("expected", "argmax"):
            first = which == "expected"
            head = (f"{row['quantity']}, {row['unit']}", f"{row['mean']:.1f}")
            limits = f" [{row[f'{which}_bias_low']:+.1f}, {row[f'{which}_bias_high']:+.1f}]"
            table.add_row(
                *(map(escape, head) if first else ("", "")), which,
                f"{row[f'{which}_bias']:+.1f}{escape(limits)}", f"{row[f'{which}_absolute']:.1f}",
                *(interval if first else ("", "", "")),
            )  # fmt: skip
    Console().print(table)
    for line in (one.too_few() for one in found):
        if line is not None:
            print_once(f"! {line}")
    for one in found:
        if one.without_estimate:
            print_once(
                f"! {one.quantity.name}: {one.without_estimate} of {len(one.low)} have no "
                "estimate: any value is in their interval, and the mean width leaves it out."
            )


def _finite(value: float | None) -> float | None:
    """Return a number that JSON has; an infinite quantile is none."""
    return None if value is None or value == float("inf") else value
