"""One test of a checkpoint as what was counted: what every number of it is computed from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mbls.evaluation.summary import summarize
from mbls.metrics.bins import CalibrationBins
from mbls.metrics.catalog import shown_in
from mbls.metrics.dice import DiceScore, dice_scores
from mbls.metrics.estimates import case_values
from mbls.metrics.fine import FineHistogram
from mbls.metrics.fine_bins import FineBins
from mbls.metrics.histogram import CalibrationHistogram
from mbls.metrics.surfaces import HausdorffDistance95, NormalizedSurfaceDice

__all__ = ["TestRun"]

N_BINS = 15
"""Of tests that do not state ``n_bins``, as those of earlier versions."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a spreadsheet takes for the begin of a formula, or moves to a field of its own."""


@dataclass(frozen=True)
class TestRun:
    """What a test counted, case by case; the content of ``bins.npz``.

    Attributes:
        bins: Histogram that keeps cases apart.
        dice: Voxels in both, predicted and labeled, int64 ``(cases, classes + unions, 3)``.
        cases: Name of each case.
        patients: Patient of each case, the unit of resampling.
        meta: ``dataset`` (str), ``origin`` (``"real"`` or ``"phantom"``), ``class_names``, and
            whatever else describes the test; JSON values only. ``n_bins`` is 15 if not stated.
        surfaces: By name (``"hd95"``, ``"nsd"``) float64 ``(cases, classes + unions)``.
        fine: Fine histogram of the same cases, if counted.

    Raises:
        ValueError: The numbers of cases differ, or ``meta`` lacks a name.
    """

    __test__ = False  # not a test case, whatever its name

    bins: CalibrationBins
    dice: np.ndarray
    cases: Sequence[str]
    patients: Sequence[str]
    meta: Mapping[str, Any]
    surfaces: Mapping[str, np.ndarray] = field(default_factory=dict)
    fine: FineBins | None = None

    def __post_init__(self) -> None:
        rows = [len(x) for x in (self.bins.cells, self.dice, self.cases, self.patients)]
        if self.bins.pooled or len(set(rows)) != 1:
            raise ValueError(
                f"The histogram (pooled: {self.bins.pooled}), Dice, cases and patients must have "
                f"one row a case, got {rows}."
            )
        if absent := [k for k in ("dataset", "origin", "class_names") if k not in self.meta]:
            raise ValueError(f"meta must hold dataset, origin and class_names, but lacks {absent}.")
        if self.meta["origin"] not in ("real", "phantom"):
            raise ValueError(
                f"meta['origin'] must be 'real' or 'phantom', got {self.meta['origin']!r}."
            )
        if len(names := self.meta["class_names"]) != self.bins.num_classes:
            raise ValueError(
                f"meta['class_names'] must name {self.bins.num_classes} classes, got {names}."
            )

    @classmethod
    def of(
        cls,
        histogram: CalibrationHistogram,
        dice: DiceScore,
        *,
        cases: Sequence[str],
        patients: Sequence[str],
        meta: Mapping[str, Any],
        hd95: HausdorffDistance95 | None = None,
        nsd: NormalizedSurfaceDice | None = None,
        fine: FineHistogram | None = None,
    ) -> "TestRun":
        """Return what metrics with ``num_cases`` counted, cases in the order of their index.

        Call it on one process, after the states were summed over all (inside ``sync_context``
        where torchmetrics has not done it).
        """
        surfaces = {"hd95": hd95, "nsd": nsd}
        return cls(
            histogram.bins(), dice.counts.cpu().numpy(), cases, patients, meta,
            {name: metric.scores() for name, metric in surfaces.items() if metric is not None},
            None if fine is None else fine.bins(),
        )  # fmt: skip

    @property
    def n_bins(self) -> int:
        """Number of bins of its calibration errors."""
        return int(self.meta.get("n_bins", N_BINS))

    @property
    def names(self) -> dict[str, str]:
        """The shown name of each channel: a class's own, a union's, ``top``."""
        own = dict(zip(self.bins.channels[1:], self.meta["class_names"], strict=False))
        return {c: str(own.get(c, c)) for c in self.bins.channels}

    @property
    def overlaps(self) -> dict[str, np.ndarray]:
        """Dice and the surface distances ``(cases, classes + unions)``; NaN where there is none."""
        return {"dice": dice_scores(self.dice), **self.surfaces}

    def summary(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``."""
        return summarize(self)

    def rows(self) -> pd.DataFrame:
        """Return the content of ``cases.csv``: one row a case, NaN for a value that is not."""
        columns: dict[str, Any] = {"case": list(self.cases), "patient": list(self.patients)}
        columns["voxels"] = self.bins.sums[:, 0, 0]
        for metric, values in self.overlaps.items():
            for place, channel in enumerate(self.bins.channels[1:]):
                if place or metric == "dice":
                    columns[f"{metric}/{self.names[channel]}"] = values[:, place]
        chosen = shown_in("csv", "top", "classes", "score")
        keys = [m.key for m in chosen]
        keys += [f"true_{m.key}" for m in chosen if m.true and self.bins.truth is not None]
        for region in self.bins.regions:
            for key in keys:
                values = case_values(self.bins, key, region=region, n_bins=self.n_bins)
                columns[f"{key}/{region}"] = values
        return pd.DataFrame(columns)

    def csv(self) -> str:
        """Return the text of ``cases.csv``; an empty field is a value that does not exist."""
        rows = self.rows()
        for column in ("case", "patient"):
            rows[column] = rows[column].map(csv_field)
        return rows.to_csv(index=False, lineterminator="\n")

    def save(self, path: Path) -> None:
        """Write all of it to one ``.npz`` without pickle, axes named."""
        extra = {
            "dice": self.dice,
            "dice_axes": np.array(("case", "channel[1:]", "count")),
            "dice_count": np.array(("both", "predicted", "labelled")),
            "case": np.array(list(self.cases), dtype=np.str_),
            "patient": np.array(list(self.patients), dtype=np.str_),
            "meta": np.array(json.dumps(dict(self.meta))),
            **{f"surface_{name}": values for name, values in self.surfaces.items()},
            **({} if self.fine is None else self.fine.arrays()),
        }
        self.bins.save(path, extra)

    @classmethod
    def load(cls, path: Path) -> "TestRun":
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: The file is no such histogram, or unpacks to too much.
        """
        bins, extra = CalibrationBins.load(path)
        surfaces = {
            name.removeprefix("surface_"): values
            for name, values in extra.items()
            if name.startswith("surface_")
        }
        return cls(
            bins, extra["dice"], extra["case"].tolist(), extra["patient"].tolist(),
            json.loads(str(extra["meta"])), surfaces, FineBins.from_arrays(extra),
        )  # fmt: skip


def csv_field(name: str) -> str:
    """Return a name as a field of a CSV file that no spreadsheet takes for a formula.

    What begins like one gets an apostrophe before it; :func:`csv_name` takes it off again.

    Example:
        >>> csv_field("=1+1"), csv_name("'=1+1"), csv_field("patient001")
        ("'=1+1", '=1+1', 'patient001')
    """
    return f"'{name}" if name.lstrip("'").startswith(FORMULA) else name


def csv_name(field: str) -> str:
    """Return the name that :func:`csv_field` wrote."""
    return field[1:] if field.startswith("'") and csv_field(field[1:]) == field else field
