"""Datasets as LightningDataModules: finding, checking, caching, splitting and loading cases."""

from datamodules.acdc import ACDCDataModule
from datamodules.augmentation import Augmentation
from datamodules.base import SegmentationDataModule
from datamodules.case import Case, DataError, Problem, Survey

__all__ = [
    "ACDCDataModule",
    "Augmentation",
    "Case",
    "DataError",
    "Problem",
    "SegmentationDataModule",
    "Survey",
]
