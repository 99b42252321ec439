"""Datasets as LightningDataModules: finding, checking, caching, splitting and loading cases."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.acdc import ACDCDataModule
    from datamodules.augmentation import Augmentation
    from datamodules.base import SegmentationDataModule
    from datamodules.brats import BraTSDataModule
    from datamodules.case import Case, DataError, Problem, Survey
    from datamodules.flare import FLAREDataModule

__all__ = [
    "ACDCDataModule",
    "Augmentation",
    "BraTSDataModule",
    "Case",
    "DataError",
    "FLAREDataModule",
    "Problem",
    "SegmentationDataModule",
    "Survey",
]

_HOMES = {
    "ACDCDataModule": "acdc",
    "Augmentation": "augmentation",
    "FLAREDataModule": "flare",
    "BraTSDataModule": "brats",
    "SegmentationDataModule": "base",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: the phantom's processes need no torch or lightning."""
    if name in __all__:
        return getattr(import_module(f"datamodules.{_HOMES.get(name, 'case')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
