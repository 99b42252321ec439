"""Tables of losses, calibration and decisions in docs/decisions.md, from kept results.

``python -m experiments.decisions keep REPORT/table.csv`` keeps the Dice of a report in which each
run was tested with and without temperature scaling and with each rule of ``DECIDE=``;
``python -m experiments.decisions regret RUN ...`` keeps what ``make regret`` found of runs on the
phantom. ``make readme`` writes the tables.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mbls.runtime.files import read_card

__all__ = ["decisions_table", "keep", "keep_regret", "main", "regret_table"]

FOLDER = Path(__file__).parent / "results"
DICE, REGRET = FOLDER / "decisions-hippocampus.csv", FOLDER / "regret-phantom.csv"
RULES = {"": "argmax", "@dice": "threshold", "@optimal-dice": "Dice-optimal"}
TERMS = ("ceiling", "network", "calibration", "decision", "argmax")


def keep(table: Path) -> None:
    """Keep the mean Dice of each row of a report's ``table.csv``."""
    content = pd.read_csv(table, dtype={"seeds": str})
    content = content[content["measure"] == "dice/mean"]
    columns = ["dataset", "test_cases", "loss", "seeds", "mean", "value_of_each_seed"]
    content[columns].to_csv(DICE, index=False, float_format="%.5g")


def keep_regret(runs: Sequence[Path]) -> None:
    """Keep ``decisions/regret.csv`` of runs."""
    parts = []
    for run in runs:
        card = read_card(run)
        rows = pd.read_csv(run / "decisions" / "regret.csv").drop(columns=["run"])
        rows.insert(0, "loss", card["loss"])
        rows.insert(1, "seed", card["seed"])
        parts.append(rows)
    pd.concat(parts).to_csv(REGRET, index=False, float_format="%.5g")


def decisions_table() -> str:
    """Return the Dice of each loss, with and without temperature scaling, by each rule."""
    table = pd.read_csv(DICE, dtype={"seeds": str}).set_index("loss")
    losses = [name for name in table.index if not set(name) & set("+@")]
    heads = [f"{rule}{scaled}" for scaled in ("", ", scaled") for rule in RULES.values()]
    rows = [f"| loss | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for loss in losses:
        names = [f"{loss}{scaled}{rule}" for scaled in ("", "+ts") for rule in RULES]
        values = [table.loc[name, "mean"] for name in names]
        best = max(values)
        cells = [f"**{v:.4f}**" if v == best else f"{v:.4f}" for v in values]
        rows.append(f"| `{loss}` | {' | '.join(cells)} |")
    seeds = len(table["seeds"].iloc[0].split())
    note = (
        f"Dice, mean of {seeds} seeds, {table['dataset'].iloc[0]} (10 training patients), test "
        f"set, {table['test_cases'].iloc[0]}. Scaled: with temperature scaling, fitted on 24 "
        "validation patients, on whom thresholds were chosen too. Bold: the best of a row."
    )
    return "\n".join([*rows, "", note])


def regret_table(quantity: str = "dice") -> str:
    """Return what is lost to the ceiling, by loss.

    Args:
        quantity: ``"dice"``, or ``"width"`` of intervals of volumes.
    """
    table = pd.read_csv(REGRET)
    table = table[(table["quantity"] == quantity) & (table["structure"] == "mean")]
    wide = table.pivot_table(index=["loss", "probabilities"], columns="term", values="value")
    rows = [f"| loss | {' | '.join(TERMS)} |", "|---" * (len(TERMS) + 1) + "|"]
    for loss, kind in wide.index:
        scaled = "" if kind == "raw" else ", scaled"
        cells = [
            f"{wide.loc[(loss, kind), term]:{'+' if term in TERMS[1:4] else ''}.4f}"
            for term in TERMS
        ]
        rows.append(f"| `{loss}`{scaled} | {' | '.join(cells)} |")
    seeds = table["seed"].nunique()
    what = (
        "expected Dice over drawn labels, mean of three structures, and what is lost to the ceiling"
        if quantity == "dice"
        else "width of an interval around the volume, relative to it, that contains that of drawn "
        "labels for 90 % of the patients, mean of three structures; around the true expected "
        "volume it is the ceiling"
    )
    note = (
        f"PHANTOM, synthetic images in ACDC's layout, 40 cases of 20 patients, {seeds} "
        f"seed{'s' * (seeds > 1)}: {what}. Scaled: with temperature scaling."
    )
    return "\n".join([*rows, "", note])


def main(args: Sequence[str] | None = None) -> None:
    """Keep results."""
    p = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    p.add_argument("what", choices=("keep", "regret"))
    p.add_argument("paths", type=Path, nargs="+")
    options = p.parse_args(args)
    if options.what == "keep":
        keep(options.paths[0])
    else:
        keep_regret(options.paths)


if __name__ == "__main__":
    main()
