"""Tables of what was decided with the runs' probabilities, from the files in ``RUN/decisions/``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mbls.config.decide import TAG, decisions_folder
from mbls.report.analysis import Analysis
from mbls.report.groups import Arm
from mbls.report.runs import Run
from mbls.report.views import View, scope

__all__ = ["decision_views"]


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
        native: If True, they are of the test on the files' grid, also in a report of another.
        text: Explanation of the columns.
    """

    files: str
    title: str
    keys: tuple[str, ...]
    values: Mapping[str, str]
    long: str | None = None
    where: Mapping[str, str] | None = None
    native: bool = False
    text: str = ""


THRESHOLDS = {"argmax": "argmax", "threshold": "at_threshold", "change": "change"}
CHOSEN = (
    "Thresholds were chosen on validation patients, of an audit for each patient on the others."
)
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
    Kind("fnr-*.csv", "Guarantees", ("structure", "family"),
         {"missed": "missed", "patients above": "above", "volume / label": "to_true",
          "inner mask outside": "outside", "inner / label": "inner_to_true"}, native=True,
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
         {"Dice": "dice", "ECE": "ece", "ECE, foreground": "ece_label",
          "at thresholds": "at_thresholds", "covered": "coverage"},
         text="Of the last call of make shift. At thresholds: the target's measure at thresholds "
              "that were chosen on clean images; covered: volumes in their intervals."),
)  # fmt: skip


def decision_views(analysis: Analysis) -> list[View]:
    """Return a table for each kind of decision that a run of the group has files of."""
    return [
        view
        for kind in KINDS
        for name in _names(analysis, kind)
        if (view := _view(analysis, kind, name)) is not None
    ]


def _folder(run: Run, kind: Kind) -> Path:
    tag = run.tag
    if kind.native and run.meta.get("grid") != "native":
        checkpoint, plus, post_hoc = tag.partition("+")
        tag = f"{checkpoint}-native{plus}{post_hoc}"
    return decisions_folder(run.folder, tag)


def _names(analysis: Analysis, kind: Kind) -> list[str]:
    runs = [run for arm in analysis.group.arms for run in arm.trainings]
    return sorted({path.name for run in runs for path in _folder(run, kind).glob(kind.files)})


def _is_stale(path: Path, run: Run) -> bool:
    """Return True if a checkpoint or a calibrator of the run is newer than a file."""
    made_of = [*run.folder.glob(f"checkpoints/{TAG}.ckpt")]
    made_of += run.folder.rglob("calibrators/**/*.json") if "+" in run.tag else ()
    return any(file.stat().st_mtime > path.stat().st_mtime for file in made_of)


def _view(analysis: Analysis, kind: Kind, name: str) -> View | None:
    rows: list[list[str]] = []
    left_out = []
    for arm in analysis.group.arms:
        found = []
        for run in arm.trainings:
            path = _folder(run, kind) / name
            if not path.is_file():
                continue
            if _is_stale(path, run):
                left_out.append(f"Left out, since the run has changed since: {path}.")
            elif (table := _read(path, kind)) is None:
                left_out.append(f"Left out, since it cannot be read: {path}.")
            else:
                found.append(table)
        rows += _rows(arm, kind, found) if found else []
    if not rows:
        return None
    several = len(_names(analysis, kind)) > 1
    title = f"{kind.title} ({Path(name).stem})" if several else kind.title
    legend = ["Brackets: 95 % interval over patients of a single run; ± sd over seeds.", kind.text]
    legend += left_out
    frame = pd.DataFrame(rows, columns=["loss", *kind.keys, *kind.values])
    return View(title, scope(analysis), tuple(filter(None, legend)), frame)


def _read(path: Path, kind: Kind) -> pd.DataFrame | None:
    """Return the table of a run with its keys as index; None if it cannot be read."""
    try:
        table = pd.read_csv(path)
        for column, value in (kind.where or {}).items():
            table = table[table[column] == value]
        if kind.long is None:
            keyed = table.set_index(list(kind.keys))
            return keyed if keyed.index.is_unique else None
        wide = table.pivot(index=list(kind.keys), columns=kind.long)
        wide.columns = [
            name if value == "value" else f"{name}_{value}" for value, name in wide.columns
        ]
        return wide
    except (OSError, ValueError, KeyError):
        return None


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
