"""``mbls refer RUN``: which cases to look at again, and how well their confidence tells."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from mbls.commands.decisions import Counted, card_of, counted
from mbls.config.ensembles import members_of
from mbls.config.options import Settings, overrides, parse, parser
from mbls.runtime.errors import UsageError
from mbls.runtime.files import replace_file, writing
from mbls.runtime.ranks import print_once

if TYPE_CHECKING:
    import pandas as pd

    from mbls.decisions.refer import Referral, Referred

__all__ = ["main"]

ABOUT = """Order the test cases of a run or an audit by their confidence, report how well it finds
those with a low Dice (risk-coverage curve, AURC, AUGRC), and refer the cases below a level of other
patients."""
NAME = "refer"
SHARE = 0.1
SHOWN = 10


def main(args: list[str]) -> int:
    """Order cases by confidence, write tables and figures, and print the least confident."""
    options, rest = parse(parser(NAME, ABOUT), args)
    if options.run is None:
        raise UsageError("Name a run folder, or that of an audit (RUN=).")
    from mbls.decisions.refer import refer, referrals

    measure, given = options.confidence or "soft_dice", [*overrides(options), *rest]
    if measure == "agreement":
        require_members(options.run, given)
    found = counted(options.run, given, groups=options.groups, needs=("confidence",))
    orders = {one.measure: one for one in referrals(found.test)}
    if measure not in orders:
        raise UsageError(
            f"CONFIDENCE (--confidence) {measure} is that of an ensemble (make evaluate RUNS=): "
            f"this test has {', '.join(orders)}."
        )
    share = SHARE if options.share is None else options.share
    chosen = refer(found.test, found.validation, measure=measure, share=share, groups=found.groups)
    table = cases_table(found, measure, chosen)
    write(found, orders, table, chosen, measure)
    show(found, orders, table, chosen, measure)
    print_once(f"All cases: {found.folder / NAME}.csv, with figures beside it")
    if (found.folder / f"{NAME}-cases.png").is_file():
        print_once(f"Pictures of the cases with the lowest soft Dice confidence: {NAME}-cases.png")
    return 0


def require_members(run: Path, given: Settings) -> None:
    """Require that a test has several networks to agree, before any of them passes over a case.

    Raises:
        UsageError: It has not.
        RunFolderError: It is not a run folder.
    """
    if "audit" in card_of(run) or members_of(run) or "post_hoc.members" in dict(given):
        return  # an audit's test is there, and says what it has
    raise UsageError(
        f"CONFIDENCE (--confidence) agreement is that of an ensemble (make evaluate RUNS=), and "
        f"{run} is one network: choose another."
    )


def cases_table(found: Counted, measure: str, chosen: "Referred | None") -> "pd.DataFrame":
    """Return a row for each case, the least confident first."""
    import pandas as pd

    from mbls.decisions.refer import case_confidences, case_risk
    from mbls.evaluation.run import csv_field

    test = found.test
    columns = {
        "case": [csv_field(case) for case in test.cases],
        "patient": [csv_field(patient) for patient in test.patients],
        "dice": 1 - case_risk(test),
        **case_confidences(test),
    }
    table = pd.DataFrame(columns)
    if chosen is not None:
        table["referred"] = chosen.cases
    return table.sort_values(measure, kind="stable", ignore_index=True)


def write(
    found: Counted,
    orders: "dict[str, Referral]",
    table: "pd.DataFrame",
    chosen: "Referred | None",
    measure: str,
) -> None:
    """Write the tables, the level and the figures."""
    import numpy as np
    import pandas as pd

    from mbls.commands.thresholds import figure_title
    from mbls.decisions.refer import CONFIDENCES, structure_referrals
    from mbls.plots import save_figure
    from mbls.plots.refer import refer_figure

    test, folder = found.test, found.folder
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    areas = pd.DataFrame([one.row() for one in orders.values()])
    each = pd.DataFrame([one.row() for one in structure_referrals(test)])
    tables = {NAME: table, f"{NAME}-areas": areas, f"{NAME}-structures": each}
    for stem, rows in tables.items():
        text = str(rows.to_csv(index=False, lineterminator="\n"))
        replace_file(folder / f"{stem}.csv", text.encode())
    if chosen is not None:
        others = [] if found.validation is None else sorted(set(found.validation.patients))
        content = {"confidence": measure, "share": chosen.share, "level": chosen.level,
                   "below": chosen.below, "patients": others}  # fmt: skip
        replace_file(folder / f"{NAME}.json", (json.dumps(content, indent=1) + "\n").encode())
    note = [] if chosen is None else [f"{chosen.sentence()} {found.chosen}"]
    figure = refer_figure(
        {CONFIDENCES[name]: one for name, one in orders.items()},
        chosen=CONFIDENCES[measure],
        confidence=table[measure].to_numpy(),
        dice=table["dice"].to_numpy(),
        referred=np.zeros(len(table), bool) if chosen is None else table["referred"].to_numpy(),
        level=None if chosen is None else chosen.level,
        caption=[figure_title([test]), *note],
    )
    with writing(folder):
        save_figure(figure, folder / NAME)
    write_pictures(found)


def write_pictures(found: Counted) -> None:
    """Draw the slices that the test kept of its least confident cases, if there are any."""
    from mbls.plots import save_figure, worst_figure
    from mbls.plots.worst_cases import load_pictures

    file = found.run / "test" / found.tag / "unsure.npz"
    if not file.is_file():  # an audit has no images
        return
    pictures = load_pictures(file)
    names = [
        f"{p.case}, slice {p.slice + 1}, confidence {p.soft_dice:.3f}, Dice {p.dice:.3f}"
        for p in pictures
    ]
    chosen = (
        "Cases with the lowest soft Dice confidence (mean of the foreground classes), whatever "
        "orders the table"
    )
    figure = worst_figure(pictures, meta=found.test.meta, names=names, chosen=chosen)
    with writing(found.folder):
        save_figure(figure, found.folder / f"{NAME}-cases")


def show(
    found: Counted,
    orders: "dict[str, Referral]",
    table: "pd.DataFrame",
    chosen: "Referred | None",
    measure: str,
) -> None:
    """Print the areas, the least confident cases, and what a level refers."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from mbls.decisions.refer import CONFIDENCES

    console, test = Console(), found.test
    phantom = " PHANTOM: synthetic images." if test.meta["origin"] == "phantom" else ""
    areas = Table(title=escape(f"{found.run}: risk 1 - Dice over coverage"), caption=(
        "Lower is better; 95 % interval over patients, too short where these are few. Tied cases "
        f"count with their mean.{phantom}"))  # fmt: skip
    for heading in ("confidence", "AURC [95 %]", "AUGRC [95 %]"):
        areas.add_column(heading, justify="left" if heading == "confidence" else "right")
    for one in orders.values():
        cells = [escape(f"{v:.4f} [{low:.4f}, {high:.4f}]") for v, low, high in one.areas.values()]
        areas.add_row(CONFIDENCES[one.measure], *cells)
    bounds = orders[measure].bounds
    for place, name in enumerate(("random order", "ideal order")):
        areas.add_row(name, *(f"{bounds[area][place]:.4f}" for area in ("aurc", "augrc")))
    console.print(areas)
    first = min(SHOWN, len(table))
    cases = Table(title=f"The {first} least confident of {len(table)} cases",
                  caption=escape(f"By {CONFIDENCES[measure]}.{phantom}"))  # fmt: skip
    for heading in ("case", "patient", "confidence", "Dice", "referred"):
        cases.add_column(heading, justify="left" if heading in ("case", "patient") else "right")
    for row in table.head(first).to_dict("records"):
        dice = "" if row["dice"] != row["dice"] else f"{row['dice']:.3f}"
        again = "yes" if row.get("referred") else ""
        cases.add_row(escape(str(row["case"])), escape(str(row["patient"])),
                      f"{row[measure]:.3f}", dice, again)  # fmt: skip
    console.print(cases)
    if chosen is None:
        console.print("No level: validation does not compare the members of an ensemble.")
    else:
        console.print(f"{chosen.sentence()} {found.chosen}", highlight=False, markup=False)
        if warning := chosen.warning():
            print_once(f"! {warning}")
