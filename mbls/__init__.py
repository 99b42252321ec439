"""Calibrated medical image segmentation: losses, metrics, and the module that trains with them."""

__version__ = "0.1.0"
