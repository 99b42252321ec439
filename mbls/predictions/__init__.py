"""Probability maps of anybody, read and written case by case."""

from mbls.predictions.case import Prediction, Source

__all__ = ["Prediction", "Source"]
