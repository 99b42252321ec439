"""The calibration histogram as arrays with named axes, in memory and on disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from torch import Tensor

from mbls.metrics._kernel.edges import GRID_BINS, GRID_CELLS, check_n_bins, grid_edges
from mbls.metrics._kernel.fixed_point import FIXED_ONE, LOG_ONE
from mbls.metrics.archives import load_arrays

AXES = ("case", "region", "channel", "cell", "quantity")
QUANTITIES = ("voxels", "hits", "confidence")
SCORES = ("voxels", "brier", "nll", "floored")
Against = Literal["label", "posterior", "readers"]
"""What confidences are compared with: the label, its known distribution, or each reader's label."""
_OWN = (
    *(
        "cells",
        "sums",
        "truth",
        "readers",
        "cells_axes",
        "sums_axes",
        "region",
        "channel",
        "quantity",
        "score",
    ),
    *("cell_lower_edge", "num_classes", "pooled"),
)
_OPTIONAL = ("truth", "readers")


@dataclass
class CalibrationBins:
    """Integer sums of a calibration histogram; pooled histograms have one case.

    Attributes:
        cells: int64 ``(cases, regions, channels, 61, 3)``, last axis voxels, hits, confidence as
            offset from the lower edge of the cell in units of 2**-30.
        sums: int64 ``(cases, regions, 4)``: voxels, Brier score (2**-30), negative log-likelihood
            (2**-26), floored voxels.
        truth: Like ``cells``, but weights, hits and whole confidences in units of 2**-30; None
            without a posterior.
        regions: Names along the region axis.
        channels: Names along the channel axis: ``"top"``, the classes, the unions.
        num_classes: Number of classes.
        pooled: True if the single case is the sum of all cases.
        readers: int64 ``(cases, R, regions, channels, 61, 3)``, the cells against the label of each
            of R readers, zero where a reader or a region was not counted; None for one reader.
    """

    cells: np.ndarray
    sums: np.ndarray
    truth: np.ndarray | None
    regions: tuple[str, ...]
    channels: tuple[str, ...]
    num_classes: int
    pooled: bool
    readers: np.ndarray | None = None

    @classmethod
    def from_states(
        cls,
        *,
        cells: Tensor,
        sums: Tensor,
        truth: Tensor | None,
        regions: Sequence[str],
        channels: Sequence[str],
        num_classes: int,
        pooled: bool,
    ) -> "CalibrationBins":
        """Copy a metric's states to the host; a pooled one becomes a single case.

        Raises:
            OverflowError: If sums over processes wrapped around.
        """
        counted, scored = _host(cells, pooled), _host(sums, pooled)
        if counted[..., :2].min(initial=0) < 0 or scored.min(initial=0) < 0:
            raise OverflowError("Sums over processes passed 2**63: score fewer voxels in one run.")
        known = None if truth is None else _host(truth, pooled)
        return cls(counted, scored, known, tuple(regions), tuple(channels), num_classes, pooled)

    def with_readers(self, each: Sequence["CalibrationBins"]) -> "CalibrationBins":
        """Return these bins with those against each reader's label, of the same cases."""
        readers = np.zeros((len(self.cells), len(each), *self.cells.shape[1:]), np.int64)
        for reader, bins in enumerate(each):
            readers[:, reader, [self.region(name) for name in bins.regions]] = bins.cells
        return replace(self, readers=readers)

    def pool(self) -> "CalibrationBins":
        """Return the sum over cases, as one case."""
        truth = None if self.truth is None else self.truth.sum(0, keepdims=True)
        readers = None if self.readers is None else self.readers.sum(0, keepdims=True)
        return replace(
            self,
            cells=self.cells.sum(0, keepdims=True),
            sums=self.sums.sum(0, keepdims=True),
            truth=truth,
            pooled=True,
            readers=readers,
        )

    def region(self, name: str) -> int:
        """Return the position of a region.

        Raises:
            ValueError: If it was not counted.
        """
        if name not in self.regions:
            raise ValueError(f"region must be one of those counted, {self.regions}, got {name!r}.")
        return self.regions.index(name)

    def table(self, region: str, n_bins: int, *, against: Against = "label") -> np.ndarray:
        """Return voxels, hits and summed confidences in ``n_bins`` right-closed bins.

        Args:
            region: Region of the voxels.
            n_bins: A divisor of 60; the cell of exact zeros joins the first bin.
            against: The labels, the expectation over their posterior, or each reader's labels.

        Returns:
            float64 ``(3, cases, channels, n_bins)``, or ``(3, cases, R, channels, n_bins)`` of R
            readers.

        Raises:
            ValueError: If the region was not counted, ``n_bins`` does not divide 60, or there is
                no posterior or a single reader.
        """
        voxels, hits, confidence = self._quantities(region, n_bins, against)
        per = GRID_BINS // n_bins
        edges = np.concatenate([[0.0], grid_edges()[:-1]])
        if against == "posterior":
            parts = [_merge(a, per) / FIXED_ONE for a in (voxels, hits, confidence)]
        else:
            whole = _merge(voxels * edges, per)
            parts = [
                _merge(voxels, per),
                _merge(hits, per),
                whole + _merge(confidence, per) / FIXED_ONE,
            ]
        return np.stack([np.asarray(p, dtype=np.float64) for p in parts])

    def integers(self, region: str, n_bins: int, *, against: Against = "label") -> np.ndarray:
        """Return :meth:`table` as integers, whose sums over cases are exact.

        Returns:
            int64 ``(cases, channels, n_bins, 3)``, or ``(cases, R, channels, n_bins, 3)`` of R
            readers: voxels, hits, hits minus confidences in units of 2**-30; against the posterior
            all three are in that unit.
        """
        voxels, hits, confidence = self._quantities(region, n_bins, against)
        if against == "posterior":
            gap = hits - confidence
        else:
            edges = np.concatenate([[0.0], grid_edges()[:-1]]) * FIXED_ONE
            gap = hits * FIXED_ONE - (voxels * edges.astype(np.int64) + confidence)
        per = GRID_BINS // n_bins
        return np.stack([_merge(a, per) for a in (voxels, hits, gap)], axis=-1)

    def _quantities(self, region: str, n_bins: int, against: Against) -> np.ndarray:
        """Return voxels, hits and confidences of a region: ``(3, cases, [R,] channels, 61)``."""
        check_n_bins(n_bins)
        cells = {"label": self.cells, "posterior": self.truth, "readers": self.readers}[against]
        if cells is None:
            need = "a posterior" if against == "posterior" else "labels of several readers"
            raise ValueError(f"The histogram against {against} needs {need}, and none was given.")
        return np.moveaxis(cells[..., self.region(region), :, :, :], -1, 0)

    def scores(self, region: str) -> dict[str, np.ndarray]:
        """Return by case: voxels, mean Brier score and mean NLL, and floored voxels."""
        voxels, brier, nll, floored = np.moveaxis(self.sums[:, self.region(region)], -1, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                "voxels": voxels.astype(np.float64),
                "brier": brier / FIXED_ONE / voxels,
                "nll": nll / LOG_ONE / voxels,
                "floored": floored.astype(np.float64),
            }

    def save(self, path: Path | BinaryIO, extra: Mapping[str, np.ndarray] | None = None) -> None:
        """Write an ``.npz`` with named axes, together with ``extra`` arrays."""
        arrays: dict[str, np.ndarray] = {
            "cells": self.cells,
            "sums": self.sums,
            "cells_axes": np.array(AXES),
            "sums_axes": np.array((*AXES[:2], "score")),
            "region": np.array(self.regions),
            "channel": np.array(self.channels),
            "quantity": np.array(QUANTITIES),
            "score": np.array(SCORES),
            "cell_lower_edge": np.concatenate([[0.0], grid_edges()[:-1]]),
            "num_classes": np.array(self.num_classes),
            "pooled": np.array(self.pooled),
        }
        further = {"truth": self.truth, "readers": self.readers}
        arrays |= {name: array for name, array in further.items() if array is not None}
        clash = sorted(set(arrays) & set(extra or {}))
        if clash:
            raise ValueError(f"extra must not reuse the histogram's own names, got {clash}.")
        np.savez_compressed(path, allow_pickle=False, **arrays, **(extra or {}))

    @classmethod
    def load(cls, path: Path) -> tuple["CalibrationBins", dict[str, np.ndarray]]:
        """Read a file of :meth:`save`: the bins and the extra arrays.

        Raises:
            ValueError: The file is not such a histogram, or too large when unpacked.
        """
        arrays = load_arrays(path)
        missing = [name for name in _OWN if name not in arrays and name not in _OPTIONAL]
        if missing or arrays["cells"].shape[3:] != (GRID_CELLS, len(QUANTITIES)):
            raise ValueError(
                f"{path} must contain a calibration histogram with axes {AXES} and {GRID_CELLS} "
                f"cells; missing or misshaped: {missing or 'cells'}."
            )
        bins = cls(
            arrays["cells"],
            arrays["sums"],
            arrays.get("truth"),
            tuple(arrays["region"].tolist()),
            tuple(arrays["channel"].tolist()),
            int(arrays["num_classes"]),
            bool(arrays["pooled"]),
            arrays.get("readers"),
        )
        return bins, {name: arrays[name] for name in arrays if name not in _OWN}


def _host(state: Tensor, pooled: bool) -> np.ndarray:
    array = state.detach().cpu().numpy().copy()
    return array[None] if pooled else array


def _merge(cells: np.ndarray, per: int) -> np.ndarray:
    """Sum cells 1..60 in runs of ``per`` and cell 0 into the first run, along the last axis."""
    merged = cells[..., 1:].reshape(*cells.shape[:-1], GRID_BINS // per, per).sum(-1)
    merged[..., 0] += cells[..., 0]
    return merged
