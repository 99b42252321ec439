"""Metrics: one exact histogram under all calibration metrics, overlap and surface distances."""

from mbls.metrics.bins import CalibrationBins
from mbls.metrics.calibration import (
    average_error,
    expected_error,
    maximum_error,
    over_error,
    signed_error,
    under_error,
)
from mbls.metrics.counting import NLL_FLOOR
from mbls.metrics.dice import DiceScore, dice_scores
from mbls.metrics.estimates import case_values, estimate
from mbls.metrics.histogram import CalibrationHistogram
from mbls.metrics.regions import REGIONS
from mbls.metrics.results import Results, load_results, write_results
from mbls.metrics.scalars import (
    AverageCalibrationError,
    BrierScore,
    ClasswiseCalibrationError,
    ExpectedCalibrationError,
    MaximumCalibrationError,
    NegativeLogLikelihood,
)
from mbls.metrics.summary import from_bins

__all__ = [
    "NLL_FLOOR",
    "REGIONS",
    "AverageCalibrationError",
    "BrierScore",
    "CalibrationBins",
    "CalibrationHistogram",
    "ClasswiseCalibrationError",
    "DiceScore",
    "ExpectedCalibrationError",
    "MaximumCalibrationError",
    "NegativeLogLikelihood",
    "Results",
    "average_error",
    "case_values",
    "dice_scores",
    "estimate",
    "expected_error",
    "from_bins",
    "load_results",
    "maximum_error",
    "over_error",
    "signed_error",
    "under_error",
    "write_results",
]
