"""Scalar calibration metrics for loggers and other frameworks.

In a :class:`torchmetrics.MetricCollection`, metrics with the same region and cases share a
histogram. To compute many metrics of one histogram, use
:class:`mbls.metrics.CalibrationHistogram` and :func:`mbls.metrics.estimate`.
"""

from typing import Any

import torch
from torch import Tensor

from mbls.metrics._kernel.edges import check_n_bins
from mbls.metrics.adaptive import adaptive_error, thresholded_error
from mbls.metrics.calibration import Norm
from mbls.metrics.estimates import Pooling, estimate
from mbls.metrics.fine import FineHistogram
from mbls.metrics.histogram import CalibrationHistogram
from mbls.metrics.smooth import smooth_error


class HistogramMetric(CalibrationHistogram):
    """Base of the metrics below: a histogram of one region whose ``compute`` returns a scalar.

    Args:
        num_classes: Number of classes C, background (class 0) included.
        n_bins: Number of equal bins of [0, 1], a divisor of 60.
        region: Which voxels count: ``"all"``, ``"label"`` (labeled foreground), ``"union"``
            (labeled or predicted), ``"dilated"`` or ``"boundary"`` (a band in mm; needs
            ``spacing``).
        ignore_index: Label of ignored voxels.
        num_cases: Average over this many cases, identified by ``index``; None pools voxels.
        dilated_mm: Distance of ``"dilated"`` from the labeled foreground, in mm.
        boundary_mm: Distance of ``"boundary"`` from a change of label, in mm.
        kwargs: Settings of :class:`torchmetrics.Metric`, such as ``sync_on_compute``.

    Raises:
        ValueError: If ``n_bins`` does not divide 60, for an unknown region, a margin that is not
            positive, a count of cases below one, or a class to ignore.
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
        dilated_mm: float = 5.0,
        boundary_mm: float = 3.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_classes,
            regions=(region,),
            num_cases=num_cases,
            ignore_index=ignore_index,
            dilated_mm=dilated_mm,
            boundary_mm=boundary_mm,
            **kwargs,
        )
        self.n_bins = check_n_bins(n_bins)
        self.region = region

    def compute(self) -> Tensor:
        """Return the value, a float64 scalar; NaN if no voxel was counted."""
        bins = self.bins()
        pooling: Pooling = "pooled" if bins.pooled else "per_case"
        value, _ = estimate(
            bins, self.metric, region=self.region, pooling=pooling, n_bins=self.n_bins
        )
        return torch.tensor(value, dtype=torch.float64)


class ExpectedCalibrationError(HistogramMetric):
    r"""Top-label expected calibration error (ECE).

    :math:`\sum_b \frac{n_b}{N} |acc_b - conf_b|` over bins of the highest probability (Naeini,
    Cooper and Hauskrecht, AAAI 2015; Guo et al. 2017, arXiv:1706.04599).

    Args:
        num_classes: Number of classes C, background (class 0) included.
        norm: ``"l1"``, or ``"l2"`` for the root of the mean squared gap.
        n_bins: Number of equal bins of [0, 1], a divisor of 60.
        region: ``"all"`` voxels, ``"label"`` (labeled foreground), ``"union"`` (labeled or
            predicted), ``"dilated"`` or ``"boundary"`` (within mm of the foreground or of a change
            of label; these need ``spacing``).
        ignore_index: Label of ignored voxels.
        num_cases: Average over this many cases, identified by ``index``; None pools voxels.
        dilated_mm: Distance of ``"dilated"`` from the labeled foreground, in mm.
        boundary_mm: Distance of ``"boundary"`` from a change of label, in mm.
        kwargs: Settings of :class:`torchmetrics.Metric`, such as ``sync_on_compute``.

    Raises:
        ValueError: If ``n_bins`` does not divide 60, for an unknown norm or region, a margin that
            is not positive, a count of cases below one, or a class to ignore.

    Example:
        >>> metric = ExpectedCalibrationError(2)
        >>> metric.update(torch.tensor([[0.25, 0.75], [0.25, 0.75]]), torch.tensor([1, 0]))
        >>> float(metric.compute())
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
        dilated_mm: float = 5.0,
        boundary_mm: float = 3.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_classes,
            n_bins=n_bins,
            region=region,
            ignore_index=ignore_index,
            num_cases=num_cases,
            dilated_mm=dilated_mm,
            boundary_mm=boundary_mm,
            **kwargs,
        )
        self.metric = _normed("ece", norm)


class ClasswiseCalibrationError(HistogramMetric):
    r"""Class-wise calibration error: the mean over classes of the one-against-rest error.

    :math:`\frac1C \sum_k \sum_b \frac{n_{kb}}{N} |share_{kb} - conf_{kb}|` (Kull et al. 2019,
    arXiv:1910.12656). The region ``"label"`` excludes the background class, which cannot occur.

    Args:
        num_classes: Number of classes C, background (class 0) included.
        norm: ``"l1"``, or ``"l2"`` for the root of the mean squared gap.
        n_bins: Number of equal bins of [0, 1], a divisor of 60.
        region: ``"all"`` voxels, ``"label"`` (labeled foreground), ``"union"`` (labeled or
            predicted), ``"dilated"`` or ``"boundary"`` (within mm of the foreground or of a change
            of label; these need ``spacing``).
        ignore_index: Label of ignored voxels.
        num_cases: Average over this many cases, identified by ``index``; None pools voxels.
        dilated_mm: Distance of ``"dilated"`` from the labeled foreground, in mm.
        boundary_mm: Distance of ``"boundary"`` from a change of label, in mm.
        kwargs: Settings of :class:`torchmetrics.Metric`, such as ``sync_on_compute``.

    Raises:
        ValueError: If ``n_bins`` does not divide 60, for an unknown norm or region, a margin that
            is not positive, a count of cases below one, or a class to ignore.

    Example:
        >>> metric = ClasswiseCalibrationError(2)
        >>> metric.update(torch.tensor([[0.25, 0.75], [0.25, 0.75]]), torch.tensor([1, 0]))
        >>> float(metric.compute())
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
        dilated_mm: float = 5.0,
        boundary_mm: float = 3.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_classes,
            n_bins=n_bins,
            region=region,
            ignore_index=ignore_index,
            num_cases=num_cases,
            dilated_mm=dilated_mm,
            boundary_mm=boundary_mm,
            **kwargs,
        )
        self.metric = _normed("cece", norm)


def _normed(metric: str, norm: Norm) -> str:
    if norm not in ("l1", "l2"):
        raise ValueError(f"norm must be 'l1' or 'l2', got {norm!r}.")
    return metric if norm == "l1" else f"{metric}_l2"


class AverageCalibrationError(HistogramMetric):
    r"""Top-label average calibration error (ACE): all non-empty bins have the same weight.

    :math:`\frac1{|B|} \sum_{b \in B} |acc_b - conf_b|` (Neumann, Zisserman and Vedaldi 2018).

    Args:
        num_classes: Number of classes C, background (class 0) included.
        n_bins: Number of equal bins of [0, 1], a divisor of 60.
        region: ``"all"`` voxels, ``"label"`` (labeled foreground), ``"union"`` (labeled or
            predicted), ``"dilated"`` or ``"boundary"`` (within mm of the foreground or of a change
            of label; these need ``spacing``).
        ignore_index: Label of ignored voxels.
        num_cases: Average over this many cases, identified by ``index``; None pools voxels.
        dilated_mm: Distance of ``"dilated"`` from the labeled foreground, in mm.
        boundary_mm: Distance of ``"boundary"`` from a change of label, in mm.
        kwargs: Settings of :class:`torchmetrics.Metric`, such as ``sync_on_compute``.

    Raises:
        ValueError: If ``n_bins`` does not divide 60, for an unknown region, a margin that is
            not positive, a count of cases below one, or a class to ignore.

    Example:
        >>> metric = AverageCalibrationError(2)
        >>> metric.update(torch.tensor([[0.25, 0.75], [0.25, 0.75]]), torch.tensor([1, 0]))
        >>> float(metric.compute())
        0.25
    """

    metric = "ace"


class MaximumCalibrationError(HistogramMetric):
    r"""Top-label maximum calibration error (MCE): the largest gap of any bin.

    :math:`\max_b |acc_b - conf_b|` (Naeini, Cooper and Hauskrecht, AAAI 2015).

    Args:
        num_classes: Number of classes C, background (class 0) included.
        n_bins: Number of equal bins of [0, 1], a divisor of 60.
        region: ``"all"`` voxels, ``"label"`` (labeled foreground), ``"union"`` (labeled or
            predicted), ``"dilated"`` or ``"boundary"`` (within mm of the foreground or of a change
            of label; these need ``spacing``).
        ignore_index: Label of ignored voxels.
        num_cases: Average over this many cases, identified by ``index``; None pools voxels.
        dilated_mm: Distance of ``"dilated"`` from the labeled foreground, in mm.
        boundary_mm: Distance of ``"boundary"`` from a change of label, in mm.
        kwargs: Settings of :class:`torchmetrics.Metric`, such as ``sync_on_compute``.

    Raises:
        ValueError: If ``n_bins`` does not divide 60, for an unknown region, a margin that is
            not positive, a count of cases below one, or a class to ignore.

    Example:
        >>> metric = MaximumCalibrationError(2)
        >>> metric.update(torch.tensor([[0.25, 0.75], [0.25, 0.75]]), torch.tensor([1, 0]))
        >>> float(metric.compute())
        0.25
    """

    metric = "mce"


class BrierScore(HistogramMetric):
    r"""Brier score: the mean squared distance to the one-hot label, 0 to 2.

    :math:`\frac1N \sum_i \sum_k (p_{ik} - y_{ik})^2` (Brier 1950); ``n_bins`` has no effect.

    Args:
        num_classes: Number of classes C, background (class 0) included.
        n_bins: Number of equal bins of [0, 1], a divisor of 60.
        region: ``"all"`` voxels, ``"label"`` (labeled foreground), ``"union"`` (labeled or
            predicted), ``"dilated"`` or ``"boundary"`` (within mm of the foreground or of a change
            of label; these need ``spacing``).
        ignore_index: Label of ignored voxels.
        num_cases: Average over this many cases, identified by ``index``; None pools voxels.
        dilated_mm: Distance of ``"dilated"`` from the labeled foreground, in mm.
        boundary_mm: Distance of ``"boundary"`` from a change of label, in mm.
        kwargs: Settings of :class:`torchmetrics.Metric`, such as ``sync_on_compute``.

    Raises:
        ValueError: If ``n_bins`` does not divide 60, for an unknown region, a margin that is
            not positive, a count of cases below one, or a class to ignore.

    Example:
        >>> metric = BrierScore(2)
        >>> metric.update(torch.tensor([[0.25, 0.75], [0.25, 0.75]]), torch.tensor([1, 0]))
        >>> float(metric.compute())
        0.625
    """

    metric = "brier"


class NegativeLogLikelihood(HistogramMetric):
    r"""Mean negative log of the true class's probability, in nats.

    Probabilities are clamped to at least ``NLL_FLOOR`` (1e-12); ``n_bins`` has no effect.

    Args:
        num_classes: Number of classes C, background (class 0) included.
        n_bins: Number of equal bins of [0, 1], a divisor of 60.
        region: ``"all"`` voxels, ``"label"`` (labeled foreground), ``"union"`` (labeled or
            predicted), ``"dilated"`` or ``"boundary"`` (within mm of the foreground or of a change
            of label; these need ``spacing``).
        ignore_index: Label of ignored voxels.
        num_cases: Average over this many cases, identified by ``index``; None pools voxels.
        dilated_mm: Distance of ``"dilated"`` from the labeled foreground, in mm.
        boundary_mm: Distance of ``"boundary"`` from a change of label, in mm.
        kwargs: Settings of :class:`torchmetrics.Metric`, such as ``sync_on_compute``.

    Raises:
        ValueError: If ``n_bins`` does not divide 60, for an unknown region, a margin that is
            not positive, a count of cases below one, or a class to ignore.

    Example:
        >>> metric = NegativeLogLikelihood(2)
        >>> metric.update(torch.tensor([[0.25, 0.75], [0.25, 0.75]]), torch.tensor([1, 0]))
        >>> round(float(metric.compute()), 6)
        0.836988
    """

    metric = "nll"


class AdaptiveCalibrationError(FineHistogram):
    """Top-label adaptive calibration error: the expected error over bins of equal counts.

    Nguyen and O'Connor 2015, arXiv:1508.05154; with ``threshold`` TACE of Nixon et al. 2019,
    arXiv:1904.01685. For its error bound see :mod:`mbls.metrics.adaptive`.

    Args:
        num_classes: Number of classes C, background (class 0) included.
        n_bins: Number of bins.
        region: ``"all"``, ``"label"`` or ``"union"``.
        threshold: If given, compute TACE: equal-mass bins of each class's probabilities above it,
            averaged over classes (in ``"label"`` without the background class).
        ignore_index: Label of ignored voxels.
        kwargs: Settings of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: ``n_bins`` is below 1, ``threshold`` is not in [0, 1), the region is unknown,
            or ``ignore_index`` is a class.

    Example:
        >>> metric = AdaptiveCalibrationError(2, n_bins=1)
        >>> metric.update(torch.tensor([[0.25, 0.75], [0.25, 0.75]]), torch.tensor([1, 0]))
        >>> float(metric.compute())
        0.25
    """

    higher_is_better = False

    def __init__(
        self,
        num_classes: int,
        *,
        n_bins: int = 15,
        region: str = "all",
        threshold: float | None = None,
        ignore_index: int = -100,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, regions=(region,), ignore_index=ignore_index, **kwargs)
        if n_bins < 1:
            raise ValueError(f"n_bins must be >= 1, got {n_bins}.")
        if threshold is not None and not 0 <= threshold < 1:
            raise ValueError(f"threshold must be in [0, 1), or None for none, got {threshold}.")
        self.n_bins, self.threshold = n_bins, threshold

    def compute(self) -> Tensor:
        """Return the value, a float64 scalar; NaN if no voxel was counted."""
        table = self.table(self.regions[0])
        if self.threshold is None:
            value = adaptive_error(table[:, 0], n_bins=self.n_bins)
        else:
            first = 2 if self.regions[0] == "label" else 1  # no background in its foreground
            classes = table[:, first : 1 + self.num_classes]
            value = thresholded_error(classes, threshold=self.threshold, n_bins=self.n_bins)
        return torch.tensor(value, dtype=torch.float64)


class SmoothCalibrationError(FineHistogram):
    """Top-label smooth calibration error (smECE), which has no bins.

    Blasiok and Nakkiran 2024, arXiv:2309.12236; see :mod:`mbls.metrics.smooth`.

    Args:
        num_classes: Number of classes C, background (class 0) included.
        region: ``"all"``, ``"label"`` or ``"union"``.
        ignore_index: Label of ignored voxels.
        kwargs: Settings of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: The region is unknown, or ``ignore_index`` is a class.

    Example:
        >>> metric = SmoothCalibrationError(2)
        >>> metric.update(torch.tensor([[0.25, 0.75], [0.25, 0.75]]), torch.tensor([1, 0]))
        >>> round(float(metric.compute()), 3)
        0.25
    """

    higher_is_better = False

    def __init__(
        self, num_classes: int, *, region: str = "all", ignore_index: int = -100, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, regions=(region,), ignore_index=ignore_index, **kwargs)

    def compute(self) -> Tensor:
        """Return the value, a float64 scalar; NaN if no voxel was counted."""
        value = smooth_error(self.table(self.regions[0])[:, 0])
        return torch.tensor(value, dtype=torch.float64)
