"""One number each from a calibration histogram of its own, for loggers and other frameworks."""

from typing import Any

import torch
from torch import Tensor

from mbls.metrics.calibration import Norm
from mbls.metrics.estimates import Pooling, estimate
from mbls.metrics.grid import check_n_bins
from mbls.metrics.histogram import CalibrationHistogram


class HistogramMetric(CalibrationHistogram):
    """Base of the scalar metrics: a histogram of one region whose ``compute`` is one number.

    Several metrics cost one histogram each; share one :class:`CalibrationHistogram` and ask
    :func:`mbls.metrics.estimate` where time matters.

    Args:
        num_classes: Number of classes, background included.
        n_bins: A divisor of 60.
        region: A name of :mod:`mbls.metrics.regions`; those by distance need ``spacing``.
        ignore_index: Label of voxels to leave out.
        num_cases: Average the value over this many cases, filled by ``index``; None pools voxels.
        kwargs: As :class:`CalibrationHistogram` takes them.

    Raises:
        ValueError: If ``n_bins`` does not divide 60, and as :class:`CalibrationHistogram`.
    """

    higher_is_better = False
    metric = ""

    def __init__(
        self,
        num_classes: int,
        *,
        n_bins: int = 15,
        region: str = "all",
        ignore_index: int = -100,
        num_cases: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_classes, regions=(region,), num_cases=num_cases, ignore_index=ignore_index, **kwargs
        )
        self.n_bins = check_n_bins(n_bins)
        self.region = region

    def compute(self) -> Tensor:
        """Return the value, a float64 scalar; NaN where no voxel was counted."""
        bins = self.bins()
        pooling: Pooling = "pooled" if bins.pooled else "per_case"
        value, _ = estimate(
            bins, self.metric, region=self.region, pooling=pooling, n_bins=self.n_bins
        )
        return torch.tensor(value, dtype=torch.float64)


class _Normed(HistogramMetric):
    def __init__(self, num_classes: int, *, norm: Norm = "l1", **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)
        if norm not in ("l1", "l2"):
            raise ValueError(f"norm must be 'l1' or 'l2', got {norm!r}.")
        self.metric = self.metric if norm == "l1" else f"{self.metric}_l2"


class ExpectedCalibrationError(_Normed):
    """Top-label expected calibration error; ``norm="l2"`` is the root of the mean squared gap."""

    metric = "ece"


class ClasswiseCalibrationError(_Normed):
    """Mean over classes of the one-against-rest error (Kull et al. 2019, arXiv:1910.12656).

    In the region ``"label"`` the background class, which cannot occur there, is left out.
    """

    metric = "cece"


class AverageCalibrationError(HistogramMetric):
    """Mean top-label gap over non-empty bins, each bin the same weight (Neumann et al. 2018)."""

    metric = "ace"


class MaximumCalibrationError(HistogramMetric):
    """Largest top-label gap of any bin (Naeini et al., AAAI 2015)."""

    metric = "mce"


class BrierScore(HistogramMetric):
    """Mean over voxels of the squared distance to the one-hot label, summed over classes (0..2)."""

    metric = "brier"


class NegativeLogLikelihood(HistogramMetric):
    """Mean negative log of the true class's probability, which counts as at least ``NLL_FLOOR``."""

    metric = "nll"
