"""Probability maps of anybody, read and written case by case."""

from mbls.predictions.case import Prediction, Source
from mbls.predictions.folder import PredictionFolder, open_predictions
from mbls.predictions.layouts import FORMATS

__all__ = ["FORMATS", "Prediction", "PredictionFolder", "Source", "open_predictions"]
