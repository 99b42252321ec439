"""Tables of what was decided with the runs' probabilities, from the files in ``RUN/decisions/``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mbls.report.analysis import Analysis
from mbls.report.groups import Arm
from mbls.report.runs import Run
from mbls.report.views import View, scope

__all__ = ["decision_views"]

FOLDER, TAG = "decisions", "best"


@dataclass(frozen=True)
class Kind:
    """A table of decisions.

    Attributes:
        files: Names of its CSV files below ``decisions/``; there is a table for each name. Those
            of guarantees are on the grid of the files.
        title: Title.
        keys: Columns that name a row next to the loss.
        values: Columns of numbers, by heading.
        long: Column with the names of the values, if each has a row of its own.
        where: The rows that are shown, by column.
        text: Explanation of the columns.
    """

    files: str
    title: str
    keys: tuple[str, ...]
    values: Mapping[str, str]
    long: str | None = None
    where: Mapping[str, str] | None = None
    text: str = ""


THRESHOLDS = {"argmax": "argmax", "threshold": "at_threshold", "change": "change"}
CHOSEN = "Thresholds were chosen on validation patients."
KINDS = (
    Kind("dice.csv", "Thresholds for Dice", ("structure", "measure"), THRESHOLDS, text=CHOSEN),
    Kind("recall-*.csv", "Thresholds for recall", ("structure", "measure"), THRESHOLDS,
         text=CHOSEN),
    Kind("precision-*.csv", "Thresholds for precision", ("structure", "measure"), THRESHOLDS,
         text=CHOSEN),
    Kind("volumes.csv", "Volumes", ("quantity", "unit"),
         {"label": "mean", "bias, expected": "expected_bias", "bias, argmax": "argmax_bias",
          "error, expected": "expected_absolute", "error, argmax": "argmax_absolute",
          "covered": "coverage", "width": "width", "CRPS": "crps"},
         text="Expected: sum of the probabilities. Covered: share of the patients whose interval "
              "contains the label."),
    Kind("best-native/fnr-*.csv", "Guarantees", ("structure", "family"),
         {"missed": "missed", "patients above": "above", "volume / label": "to_true",
          "inner mask outside": "outside", "inner / label": "inner_to_true"},
         text="Missed: share of the structure outside the outer mask, mean over patients."),
    Kind("refer-areas.csv", "Cases to look at again", ("confidence",),
         {"AURC ↓": "aurc", "at random": "aurc_random", "ideal": "aurc_ideal",
          "AUGRC ↓": "augrc"},
         text="Area under the risk (1 - Dice) over the share of cases that are accepted."),
    Kind("regret.csv", "Regret", ("probabilities", "structure"),
         {"ceiling": "ceiling", "network": "network", "calibration": "calibration",
          "decision": "decision", "argmax": "argmax"}, long="term", where={"quantity": "dice"},
         text="Expected Dice over drawn labels: what is lost to the ceiling by each part."),
    Kind("shift.csv", "Corrupted images", ("corruption", "level"),
         {"Dice": "dice", "ECE": "ece", "ECE, foreground": "ece_label"}),
)  # fmt: skip


def decision_views(analysis: Analysis) -> list[View]:
    """Return a table for each kind of decision that a run of the group has files of."""
    return [
        view
        for kind in KINDS
        for name in _names(analysis, kind.files)
        if (view := _view(analysis, kind, name)) is not None
    ]


def _folder(run: Run) -> Path:
    return run.folder / FOLDER / ("" if run.tag == TAG else run.tag)


def _names(analysis: Analysis, files: str) -> list[str]:
    runs = [run for arm in analysis.group.arms for run in arm.trainings]
    return sorted(
        {p.relative_to(_folder(r)).as_posix() for r in runs for p in _folder(r).glob(files)}
    )


def _view(analysis: Analysis, kind: Kind, name: str) -> View | None:
    rows: list[list[str]] = []
    damaged = []
    for arm in analysis.group.arms:
        read = [_read(_folder(run) / name, kind) for run in arm.trainings]
        damaged += [path for path, table in read if table is None and path.is_file()]
        if found := [table for _, table in read if table is not None]:
            rows += _rows(arm, kind, found)
    if not rows:
        return None
    several = len(_names(analysis, kind.files)) > 1
    title = f"{kind.title} ({Path(name).stem})" if several else kind.title
    legend = ["Brackets: 95 % interval over patients of a single run; ± sd over seeds.", kind.text]
    legend += [f"Left out, since it cannot be read: {path}." for path in damaged]
    frame = pd.DataFrame(rows, columns=["loss", *kind.keys, *kind.values])
    return View(title, scope(analysis), tuple(filter(None, legend)), frame)


def _read(path: Path, kind: Kind) -> tuple[Path, pd.DataFrame | None]:
    """Return the table of a run with its keys as index; None if there is none to read."""
    try:
        table = pd.read_csv(path)
        for column, value in (kind.where or {}).items():
            table = table[table[column] == value]
        if kind.long is None:
            keyed = table.set_index(list(kind.keys))
            return path, keyed if keyed.index.is_unique else None
        wide = table.pivot(index=list(kind.keys), columns=kind.long)
        wide.columns = [
            name if value == "value" else f"{name}_{value}" for value, name in wide.columns
        ]
        return path, wide
    except (OSError, ValueError, KeyError):
        return path, None


def _rows(arm: Arm, kind: Kind, tables: Sequence[pd.DataFrame]) -> list[list[str]]:
    seeds = f"{len(tables)} run{'s' * (len(tables) > 1)}"
    shared = [key for key in tables[0].index if all(key in table.index for table in tables)]
    return [
        [
            f"{arm.name}\n{seeds}",
            *map(str, key if isinstance(key, tuple) else (key,)),
            *(_cell([t.loc[key] for t in tables], column) for column in kind.values.values()),
        ]
        for key in shared
    ]


def _cell(found: Sequence["pd.Series[float]"], column: str) -> str:
    values = pd.Series([float(row.get(column, float("nan"))) for row in found])
    if values.isna().any():
        return "n/a"
    if len(values) > 1:
        return f"{values.mean():.4g} ± {values.std():.2g}"
    low, high = (float(found[0].get(f"{column}_{end}", float("nan"))) for end in ("low", "high"))
    return f"{values[0]:.4g}" + ("" if low != low else f"\n[{low:.3g}, {high:.3g}]")
