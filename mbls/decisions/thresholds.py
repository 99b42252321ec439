r"""Each structure at 60 thresholds of its probability, from the counts of a test alone.

A voxel belongs to a structure at threshold :math:`t = k/60` if its probability is above it,
:math:`p > t`. The bins of :class:`mbls.metrics.CalibrationBins` are right-closed, so their sums
from bin k + 1 on are the exact counts of true and false positives, without the probabilities. Each
class and union is taken against the rest, so structures may overlap.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mbls.evaluation.run import TestRun
from mbls.metrics.bins import CalibrationBins
from mbls.metrics.bootstrap import exact_sums, interval, mean_of_draws, patient_weights
from mbls.metrics.estimates import Pooling

__all__ = [
    "MEASURES",
    "OVERLAPS",
    "THRESHOLDS",
    "Curve",
    "argmax_counts",
    "case_scores",
    "curves_of",
    "structures_of",
    "threshold_counts",
]

STEPS = 60
THRESHOLDS = np.arange(STEPS) / STEPS
"""The thresholds k/60, k = 0 ... 59; probabilities are compared with them as float32."""
Overlap = Literal["dice", "precision", "recall"]
OVERLAPS: tuple[Overlap, ...] = ("dice", "precision", "recall")
MEASURES = (*OVERLAPS, "false_positives", "false_positive_ml", "net_benefit")
DRAWS = 2000
"""Draws of patients for a band: there are hundreds of intervals in a figure."""


@dataclass(frozen=True)
class Curve:
    """A measure of one structure at each threshold.

    Attributes:
        value: Its value ``(60,)``; NaN if undefined.
        low: Lower limit of the 95 % interval over patients ``(60,)``; NaN without one.
        high: Upper limit ``(60,)``.
        n_cases: Number of cases with a value ``(60,)``.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n_cases: np.ndarray


def structures_of(run: TestRun) -> dict[str, str]:
    """Return the names of the foreground classes and unions by channel, in order of the counts."""
    return {channel: run.names[channel] for channel in run.bins.channels[2:]}


def threshold_counts(bins: CalibrationBins) -> np.ndarray:
    """Return true positives, false positives and false negatives at each threshold.

    They are over all labeled voxels.

    Returns:
        int64 ``(cases, structures, 60, 3)``, of the foreground classes, then the unions.
    """
    cells = bins.cells[:, bins.region("all"), 2:, :, :2]
    above = np.flip(np.flip(cells[..., 1:, :], -2).cumsum(-2), -2)  # [k]: the sum of cells > k
    predicted, both = np.moveaxis(above, -1, 0)
    labeled = cells[..., 1].sum(-1, keepdims=True)
    return np.stack([both, predicted - both, labeled - both], axis=-1)


def argmax_counts(run: TestRun) -> np.ndarray:
    """Return the same counts of the predicted classes of a test, ``(cases, structures, 3)``."""
    both, predicted, labeled = np.moveaxis(run.dice[:, 1:], -1, 0)
    return np.stack([both, predicted - both, labeled - both], axis=-1)


def case_scores(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return Dice, precision and recall ``(...)`` for counts ``(..., 3)``.

    Dice and recall are NaN where the structure is absent from the label, as in
    :func:`mbls.metrics.dice_scores`, precision where nothing is predicted.
    """
    both, wrong, missed = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    labeled, predicted = both + missed, both + wrong
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "dice": np.where(labeled > 0, 2 * both / (labeled + predicted), np.nan),
            "precision": both / predicted,
            "recall": both / labeled,
        }


def net_benefit(counts: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    r"""Return :math:`TP/n - FP/n \cdot t/(1-t)` (Vickers and Elkin 2006) at each threshold.

    A false positive costs as much as :math:`t/(1-t)` true positives gain. The unit is a voxel, so
    the value depends on the field of view.

    Args:
        counts: ``(..., 60, 3)`` of :func:`threshold_counts`.
        voxels: Number of voxels n ``(...)``.
    """
    both, wrong, _ = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    odds = THRESHOLDS / (1 - THRESHOLDS)
    with np.errstate(invalid="ignore", divide="ignore"):
        benefit: np.ndarray = (both - wrong * odds) / np.asarray(voxels)[..., None]
    return benefit


def curves_of(
    run: TestRun, *, pooling: Pooling = "per_case", draws: int = DRAWS
) -> dict[str, dict[str, Curve]]:
    """Return each measure of each structure at each threshold, with intervals over patients.

    The measures are ``dice``, ``precision``, ``recall``, ``false_positives`` (voxels a case),
    ``false_positive_ml`` (NaN for tests of earlier versions, which lack the size of a voxel) and
    ``net_benefit``.

    Args:
        run: The counts of a test.
        pooling: Mean of the cases' values, or values of all cases' voxels together.
        draws: Number of draws of patients; there are no intervals for a single patient.
    """
    counts, voxels = threshold_counts(run.bins), run.bins.sums[:, run.bins.region("all"), 0]
    size = np.full(len(counts), np.nan) if run.voxel_ml is None else run.voxel_ml
    several = len(set(run.patients)) > 1
    weights = patient_weights(run.patients, draws) if several else None
    of = _pooled if pooling == "pooled" else _per_case
    return {
        name: of(counts[:, place], voxels, size, weights)
        for place, name in enumerate(structures_of(run).values())
    }


def _wrong(counts: np.ndarray, size: np.ndarray) -> dict[str, np.ndarray]:
    """Return false positives ``(cases, 60)`` in voxels and ml for counts ``(cases, 60, 3)``."""
    wrong = np.asarray(counts[..., 1], dtype=np.float64)
    return {"false_positives": wrong, "false_positive_ml": wrong * size[:, None]}


def _per_case(
    counts: np.ndarray, voxels: np.ndarray, size: np.ndarray, weights: np.ndarray | None
) -> dict[str, Curve]:
    each = {
        **case_scores(counts),
        **_wrong(counts, size),
        "net_benefit": net_benefit(counts, voxels),
    }
    stacked = np.stack([each[name] for name in MEASURES], axis=-1)  # (cases, 60, measures)
    mean = mean_of_draws(stacked, np.ones((1, len(counts))))[0]
    drawn = None if weights is None else mean_of_draws(stacked, weights)
    known = (~np.isnan(stacked)).sum(axis=0)
    return {
        name: _curve(mean[:, m], None if drawn is None else drawn[..., m], known[:, m])
        for m, name in enumerate(MEASURES)
    }


def _pooled(
    counts: np.ndarray, voxels: np.ndarray, size: np.ndarray, weights: np.ndarray | None
) -> dict[str, Curve]:
    wrong = _wrong(counts, size)

    def measured(drawn: np.ndarray) -> Mapping[str, np.ndarray]:
        sums, number = exact_sums(drawn, counts), exact_sums(drawn, voxels)
        means = {name: mean_of_draws(values, drawn) for name, values in wrong.items()}
        return {**case_scores(sums), **means, "net_benefit": net_benefit(sums, number)}

    value = measured(np.ones((1, len(counts))))
    drawn = None if weights is None else measured(weights)
    cases = np.full(STEPS, len(counts))
    return {
        name: _curve(value[name][0], None if drawn is None else drawn[name], cases)
        for name in MEASURES
    }


def _curve(value: np.ndarray, drawn: np.ndarray | None, known: np.ndarray) -> Curve:
    limits = np.full((2, len(value)), np.nan)
    for k in range(len(value) if drawn is not None else 0):
        found = None if drawn is None or np.isnan(value[k]) else interval(drawn[:, k])
        limits[:, k] = (np.nan, np.nan) if found is None else found
    return Curve(value, limits[0], limits[1], known)
