"""Calibration metrics from one exact histogram, overlap metrics and surface distances."""

from mbls.metrics._kernel.counting import NLL_FLOOR
from mbls.metrics._kernel.edges import check_n_bins
from mbls.metrics.adaptive import adaptive_error, thresholded_error
from mbls.metrics.bins import CalibrationBins
from mbls.metrics.calibration import (
    average_error,
    expected_error,
    maximum_error,
    over_error,
    signed_error,
    under_error,
)
from mbls.metrics.calibration_error import (
    AdaptiveCalibrationError,
    AverageCalibrationError,
    BrierScore,
    ClasswiseCalibrationError,
    ExpectedCalibrationError,
    HistogramMetric,
    MaximumCalibrationError,
    NegativeLogLikelihood,
    SmoothCalibrationError,
)
from mbls.metrics.confidence import CaseConfidence
from mbls.metrics.confidence_sums import ConfidenceSums
from mbls.metrics.dice import DiceScore, dice_scores
from mbls.metrics.estimates import case_values, estimate
from mbls.metrics.fine import FineHistogram
from mbls.metrics.fine_bins import FineBins
from mbls.metrics.floor import debiased_square, expected_error_floor
from mbls.metrics.histogram import CalibrationHistogram
from mbls.metrics.regions import REGIONS
from mbls.metrics.smooth import smooth_error, smoothed_error
from mbls.metrics.surfaces import HausdorffDistance95, NormalizedSurfaceDice

__all__ = [
    "NLL_FLOOR",
    "REGIONS",
    "AdaptiveCalibrationError",
    "AverageCalibrationError",
    "BrierScore",
    "CalibrationBins",
    "CalibrationHistogram",
    "CaseConfidence",
    "ClasswiseCalibrationError",
    "ConfidenceSums",
    "DiceScore",
    "ExpectedCalibrationError",
    "FineBins",
    "FineHistogram",
    "HausdorffDistance95",
    "HistogramMetric",
    "MaximumCalibrationError",
    "NegativeLogLikelihood",
    "NormalizedSurfaceDice",
    "SmoothCalibrationError",
    "adaptive_error",
    "average_error",
    "case_values",
    "check_n_bins",
    "debiased_square",
    "dice_scores",
    "estimate",
    "expected_error",
    "expected_error_floor",
    "maximum_error",
    "over_error",
    "signed_error",
    "smooth_error",
    "smoothed_error",
    "thresholded_error",
    "under_error",
]
