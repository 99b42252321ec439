"""The counts of one test, from which all of its results are computed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from mbls.evaluation.summary import summarize
from mbls.metrics.bins import CalibrationBins
from mbls.metrics.catalog import further_keys, shown_in
from mbls.metrics.confidence import CaseConfidence
from mbls.metrics.confidence_sums import ConfidenceSums
from mbls.metrics.dice import DiceScore, dice_scores
from mbls.metrics.estimates import case_values
from mbls.metrics.fine import FineHistogram
from mbls.metrics.fine_bins import FineBins
from mbls.metrics.histogram import CalibrationHistogram
from mbls.metrics.margins import MARGINS, MarginCounts
from mbls.metrics.surfaces import HausdorffDistance95, NormalizedSurfaceDice

__all__ = ["TestRun"]

N_BINS = 15
"""Default for tests of earlier versions, without ``n_bins``."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""First characters that a spreadsheet interprets as a formula or a field separator."""


@dataclass(frozen=True)
class TestRun:
    """Counts of a test, case by case; the content of ``bins.npz``.

    Attributes:
        bins: Histogram per case.
        dice: Voxels in both, predicted and labeled, int64 ``(cases, classes + unions, 3)``.
        cases: Name of each case.
        patients: Patient of each case, the unit of resampling.
        meta: ``dataset`` (str), ``origin`` (``"real"`` or ``"phantom"``), ``class_names``, and
            any other description of the test; JSON values only. ``n_bins`` is 15 by default;
            ``posterior`` is ``"readers"`` if the posterior is the mean of several readers.
        surfaces: ``{"hd95": ..., "nsd": ...}``, each float64 ``(cases, classes + unions)``.
        fine: Fine histogram of the same cases, if counted.
        voxel_ml: Volume of a voxel of each case in ml ``(cases,)``; None in tests of earlier
            versions.
        confidence: Sums from which the confidence of each case follows; None in tests of earlier
            versions.
        margins: Counts of :class:`mbls.metrics.margins.MarginCounts`, int64 ``(cases, classes +
            unions, margins, 2)``; None if not counted.

    Raises:
        ValueError: The numbers of cases differ, or ``meta`` lacks a key.
    """

    __test__ = False  # not a test class of pytest

    bins: CalibrationBins
    dice: np.ndarray
    cases: Sequence[str]
    patients: Sequence[str]
    meta: Mapping[str, Any]
    surfaces: Mapping[str, np.ndarray] = field(default_factory=dict)
    fine: FineBins | None = None
    voxel_ml: np.ndarray | None = None
    confidence: ConfidenceSums | None = None
    margins: np.ndarray | None = None

    def __post_init__(self) -> None:
        rows = [len(x) for x in (self.bins.cells, self.dice, self.cases, self.patients)]
        if self.bins.pooled or len(set(rows)) != 1:
            raise ValueError(
                f"The histogram (pooled: {self.bins.pooled}), Dice, cases and patients must have "
                f"one row per case, got {rows}."
            )
        if absent := [k for k in ("dataset", "origin", "class_names") if k not in self.meta]:
            raise ValueError(f"meta must have dataset, origin and class_names, but lacks {absent}.")
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
        readers: Sequence[CalibrationHistogram] = (),
        voxel_ml: np.ndarray | None = None,
        confidence: CaseConfidence | None = None,
        margins: MarginCounts | None = None,
    ) -> "TestRun":
        """Return the counts of metrics that were made with ``num_cases``, in order of case index.

        ``readers`` are those against each reader's labels. Call it on one process after the states
        have been synced (such as in ``sync_context``).
        """
        bins = histogram.bins()
        if readers:
            bins = bins.with_readers([each.bins() for each in readers])
        surfaces = {"hd95": hd95, "nsd": nsd}
        return cls(
            bins, dice.counts.cpu().numpy(), cases, patients, meta,
            {name: metric.scores() for name, metric in surfaces.items() if metric is not None},
            None if fine is None else fine.bins(), voxel_ml,
            None if confidence is None else confidence.sums(),
            None if margins is None else margins.scores(),
        )  # fmt: skip

    @property
    def n_bins(self) -> int:
        """Number of bins of the calibration errors."""
        return int(self.meta.get("n_bins", N_BINS))

    @property
    def names(self) -> dict[str, str]:
        """Display name of each channel: ``top``, the classes, the unions."""
        own = dict(zip(self.bins.channels[1:], self.meta["class_names"], strict=False))
        return {c: str(own.get(c, c)) for c in self.bins.channels}

    @property
    def overlaps(self) -> dict[str, np.ndarray]:
        """Dice and surface distances ``(cases, classes + unions)``; NaN if undefined."""
        return {"dice": dice_scores(self.dice), **self.surfaces}

    def summary(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``."""
        return summarize(self)

    def rows(self) -> pd.DataFrame:
        """Return the content of ``cases.csv``: one row per case, NaN if undefined."""
        columns: dict[str, Any] = {"case": list(self.cases), "patient": list(self.patients)}
        columns["voxels"] = self.bins.sums[:, 0, 0]
        for metric, values in self.overlaps.items():
            for place, channel in enumerate(self.bins.channels[1:]):
                if place or metric == "dice":
                    columns[f"{metric}/{self.names[channel]}"] = values[:, place]
        chosen = shown_in("csv", "top", "classes", "score")
        keys = [m.key for m in chosen]
        keys += further_keys(
            chosen,
            posterior=self.bins.truth is not None,
            readers=self.bins.readers is not None,
        )
        for region in self.bins.regions:
            for key in keys:
                values = case_values(self.bins, key, region=region, n_bins=self.n_bins)
                columns[f"{key}/{region}"] = values
        return pd.DataFrame(columns | self._confidence_columns())

    def _confidence_columns(self) -> dict[str, np.ndarray]:
        if (sums := self.confidence) is None:
            return {}
        structures = list(self.names.values())[2:]
        by_structure = {"soft_dice": sums.soft_dice(), "expected_dice": sums.expected_dice()}
        if sums.agreement is not None:
            by_structure["agreement"] = sums.agreement
        columns = {
            f"{measure}/{name}": values[:, place]
            for measure, values in by_structure.items()
            for place, name in enumerate(structures, 1)
        }
        columns["entropy/all"] = sums.mean_entropy(near=False)
        columns["entropy/near"] = sums.mean_entropy(near=True)
        return columns

    def csv(self) -> str:
        """Return the text of ``cases.csv``; an undefined value is an empty field."""
        rows = self.rows()
        for column in ("case", "patient"):
            rows[column] = rows[column].map(csv_field)
        return rows.to_csv(index=False, lineterminator="\n")

    def save(self, path: Path | BinaryIO) -> None:
        """Write one ``.npz`` without pickle, with named axes."""
        extra = {
            "dice": self.dice,
            "dice_axes": np.array(("case", "channel[1:]", "count")),
            "dice_count": np.array(("both", "predicted", "labelled")),
            "case": np.array(list(self.cases), dtype=np.str_),
            "patient": np.array(list(self.patients), dtype=np.str_),
            "meta": np.array(json.dumps(dict(self.meta))),
            **{f"surface_{name}": values for name, values in self.surfaces.items()},
            **({} if self.fine is None else self.fine.arrays()),
            **({} if self.voxel_ml is None else {"voxel_ml": self.voxel_ml}),
            **({} if self.confidence is None else self.confidence.arrays()),
            **({} if self.margins is None else {"margins": self.margins, "margin_mm": MARGINS}),
        }
        self.bins.save(path, extra)

    @classmethod
    def load(cls, path: Path) -> "TestRun":
        """Read a file of :meth:`save`.

        Raises:
            ValueError: The file is not such a histogram, or too large when unpacked.
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
            extra.get("voxel_ml"), ConfidenceSums.from_arrays(extra), extra.get("margins"),
        )  # fmt: skip


def csv_field(name: str) -> str:
    """Return a name as a CSV field that a spreadsheet does not interpret as a formula.

    A name that starts like a formula gets an apostrophe, which :func:`csv_name` removes.

    Example:
        >>> csv_field("=1+1"), csv_name("'=1+1"), csv_field("patient001")
        ("'=1+1", '=1+1', 'patient001')
    """
    return f"'{name}" if name.lstrip("'").startswith(FORMULA) else name


def csv_name(field: str) -> str:
    """Return the name of a field written by :func:`csv_field`."""
    return field[1:] if field.startswith("'") and csv_field(field[1:]) == field else field
