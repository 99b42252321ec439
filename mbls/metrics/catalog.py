"""The table of metrics for logs, files, the screen, reports and figures.

To add a metric of the histogram, add an entry to :data:`METRICS`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mbls.metrics.calibration import (
    average_error,
    expected_error,
    maximum_error,
    over_error,
    signed_error,
    under_error,
)
from mbls.metrics.floor import debiased_square, expected_error_floor

__all__ = [
    "METRICS",
    "Estimator",
    "NamedMetric",
    "find_metric",
    "further_keys",
    "logged_metrics",
    "shown_in",
]

Estimator = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
Place = Literal["json", "csv", "screen", "summary", "report"]
EVERYWHERE: tuple[Place, ...] = ("json", "csv", "screen", "report")


@dataclass(frozen=True)
class NamedMetric:
    """One entry of :data:`METRICS`.

    Attributes:
        key: Name in files and in :func:`mbls.metrics.estimate`.
        label: Name on screen, in reports and in figures.
        of: Source: bins of the ``"top"`` label, bins of all ``"classes"`` (averaged), a
            ``"score"`` that the histogram sums, the ``"fine"`` histogram (pooled only), or the
            ``"overlap"`` of structures.
        value: Maps voxels, hits and summed confidences ``(..., n_bins)`` to ``(...)``; for
            ``"top"`` and ``"classes"``.
        better: Which values are better, or None.
        digits: Number of decimals.
        floor: Expected value for a calibrated model (``<key>_floor``), called like ``value``.
        corrected: If True, ``<key>_corrected`` is added for pooled voxels.
        true: If True, ``true_<key>`` is added if the posterior is known.
        readers: If True, ``readers_<key>``, the mean of the values against each reader's labels, is
            added if there are several readers.
        shown: ``"json"`` (metrics.json), ``"csv"`` (cases.csv), ``"screen"`` and its ``"summary"``
            after a test, ``"report"``.
        logged: Names in the logs of validation and test, with their regions; voxels are pooled.
    """

    key: str
    label: str
    of: Literal["top", "classes", "score", "fine", "overlap"]
    value: Estimator | None = None
    better: Literal["less", "more"] | None = "less"
    digits: int = 4
    floor: Estimator | None = None
    corrected: bool = False
    true: bool = False
    readers: bool = False
    shown: tuple[Place, ...] = EVERYWHERE
    logged: Mapping[str, str] = field(default_factory=dict)


def expected_error_l2(count: np.ndarray, hits: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Return the root of the count-weighted mean squared gap."""
    return expected_error(count, hits, confidence, norm="l2")


METRICS = (
    NamedMetric(
        "ece", "ECE", "top", expected_error,
        floor=expected_error_floor, corrected=True, true=True, readers=True,
        shown=(*EVERYWHERE, "summary"), logged={"ece": "all", "ece_label": "label"},
    ),
    NamedMetric(
        "cece", "class-wise ECE", "classes", expected_error,
        floor=expected_error_floor, corrected=True, true=True, readers=True,
        shown=(*EVERYWHERE, "summary"), logged={"cece": "all"},
    ),
    NamedMetric("adaptive_ece", "equal-mass ECE", "fine", shown=("json", "screen")),
    NamedMetric("tace", "TACE", "fine", shown=("json", "screen")),
    NamedMetric("smece", "smooth ECE", "fine", shown=("json", "screen")),
    NamedMetric("ece_l2", "ECE, L2", "top", expected_error_l2, shown=("json",)),
    NamedMetric("cece_l2", "class-wise ECE, L2", "classes", expected_error_l2, shown=("json",)),
    NamedMetric("ace", "ACE", "top", average_error, shown=("json",)),
    NamedMetric("mce", "MCE", "top", maximum_error, shown=("json",)),
    NamedMetric("cace", "class-wise ACE", "classes", average_error, shown=()),
    NamedMetric("cmce", "class-wise MCE", "classes", maximum_error, shown=()),
    NamedMetric(
        "signed", "confidence - accuracy", "top", signed_error, better=None, true=True,
        shown=("json", "csv", "report"),
    ),
    NamedMetric("over", "overconfident part of ECE", "top", over_error, shown=("json",)),
    NamedMetric("under", "underconfident part of ECE", "top", under_error, shown=("json",)),
    NamedMetric("nll", "NLL", "score", shown=(*EVERYWHERE, "summary"), logged={"nll": "all"}),
    NamedMetric("brier", "Brier", "score"),
    NamedMetric(
        "ece_debiased_square", "squared ECE, debiased", "top", debiased_square, better=None,
        shown=("json",),
    ),
    NamedMetric(
        "cece_debiased_square", "squared class-wise ECE, debiased", "classes", debiased_square,
        better=None, shown=("json",),
    ),
    NamedMetric("dice", "Dice", "overlap", better="more"),
    NamedMetric("hd95", "HD95 (mm)", "overlap", digits=2),
    NamedMetric("nsd", "NSD", "overlap", better="more"),
)  # fmt: skip
"""All metrics, in the order of files and tables."""


def further_keys(metrics: Sequence[NamedMetric], *, posterior: bool, readers: bool) -> list[str]:
    """Return the keys of metrics against a posterior and against several readers.

    Args:
        metrics: The metrics.
        posterior: Whether the posterior is known.
        readers: Whether there are several readers.
    """
    keys = [f"true_{m.key}" for m in metrics if posterior and m.true]
    return keys + [f"readers_{m.key}" for m in metrics if readers and m.readers]


def shown_in(place: Place, *of: str) -> list[NamedMetric]:
    """Return the metrics that a place shows.

    Args:
        place: As in :attr:`NamedMetric.shown`.
        of: Sources (:attr:`NamedMetric.of`); by default all except overlaps.
    """
    kinds = of or ("top", "classes", "score", "fine")
    return [m for m in METRICS if place in m.shown and m.of in kinds]


def logged_metrics() -> list[tuple[NamedMetric, str, str]]:
    """Return each logged value: its metric, its name and its region."""
    return [(m, name, region) for m in METRICS for name, region in m.logged.items()]


def find_metric(key: str) -> NamedMetric:
    """Return the entry of a key.

    Raises:
        ValueError: The key is unknown.
    """
    for metric in METRICS:
        if metric.key == key:
            return metric
    raise ValueError(f"metric must be one of {[m.key for m in METRICS]}, got {key!r}.")
