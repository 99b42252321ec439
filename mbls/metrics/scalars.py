"""One number each from a calibration histogram of its own, for loggers and other frameworks."""

from typing import Any

import torch
from torch import Tensor

from mbls.metrics._kernel.edges import check_n_bins
from mbls.metrics.calibration import Norm
from mbls.metrics.estimates import Pooling, estimate
from mbls.metrics.histogram import CalibrationHistogram


class HistogramMetric(CalibrationHistogram):
    """A histogram of one region whose ``compute`` is one number: what scalar metrics share.

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
    plot_lower_bound = 0.0
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


class ExpectedCalibrationError(HistogramMetric):
    """Top-label expected calibration error (Naeini et al., AAAI 2015; Guo et al. 2017).

    Args:
        num_classes: Number of classes, background included.
        norm: ``"l1"``, or ``"l2"`` for the root of the mean squared gap.
        n_bins: A divisor of 60.
        region: A name of :mod:`mbls.metrics.regions`; those by distance need ``spacing``.
        ignore_index: Label of voxels to leave out.
        num_cases: Average the value over this many cases, filled by ``index``; None pools voxels.
        kwargs: As :class:`mbls.metrics.CalibrationHistogram` takes them.

    Raises:
        ValueError: If ``n_bins`` does not divide 60, for an unknown norm or region, a count of
            cases below one, or a class to ignore.

    Example:
        >>> ece = ExpectedCalibrationError(2)
        >>> ece.update(torch.tensor([[0.25, 0.75], [0.25, 0.75]]), torch.tensor([1, 0]))
        >>> float(ece.compute())
        0.25
    """

    def __init__(
        self,
        num_classes: int,
        *,
        norm: Norm = "l1",
        n_bins: int = 15,
        region: str = "all",
        ignore_index: int = -100,
        num_cases: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_classes,
            n_bins=n_bins,
            region=region,
            ignore_index=ignore_index,
            num_cases=num_cases,
            **kwargs,
        )
        self.metric = _normed("ece", norm)


class ClasswiseCalibrationError(HistogramMetric):
    """Mean over classes of the one-against-rest error (Kull et al. 2019, arXiv:1910.12656).

    In the region ``"label"`` the background class, which cannot occur there, is left out.

    Args:
        num_classes: Number of classes, background included.
        norm: ``"l1"``, or ``"l2"`` for the root of the mean squared gap.
        n_bins: A divisor of 60.
        region: A name of :mod:`mbls.metrics.regions`; those by distance need ``spacing``.
        ignore_index: Label of voxels to leave out.
        num_cases: Average the value over this many cases, filled by ``index``; None pools voxels.
        kwargs: As :class:`mbls.metrics.CalibrationHistogram` takes them.

    Raises:
        ValueError: If ``n_bins`` does not divide 60, for an unknown norm or region, a count of
            cases below one, or a class to ignore.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        norm: Norm = "l1",
        n_bins: int = 15,
        region: str = "all",
        ignore_index: int = -100,
        num_cases: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_classes,
            n_bins=n_bins,
            region=region,
            ignore_index=ignore_index,
            num_cases=num_cases,
            **kwargs,
        )
        self.metric = _normed("cece", norm)


def _normed(metric: str, norm: Norm) -> str:
    if norm not in ("l1", "l2"):
        raise ValueError(f"norm must be 'l1' or 'l2', got {norm!r}.")
    return metric if norm == "l1" else f"{metric}_l2"


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
