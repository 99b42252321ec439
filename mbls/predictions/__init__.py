"""Probability maps of anybody, read and written case by case."""

from mbls.predictions.case import Prediction
from mbls.predictions.folder import PredictionFolder
from mbls.predictions.layouts import FORMATS
from mbls.predictions.opening import open_predictions

__all__ = ["FORMATS", "Prediction", "PredictionFolder", "open_predictions"]
