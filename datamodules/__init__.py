"""Datasets as LightningDataModules: finding, checking, caching, splitting and loading cases.

A case goes from its dataset's folder (``layouts``) over its files (``reading``) into the ``cache``,
once, and from there into batches (``loading``). ``base`` joins them; ``acdc``, ``brats`` and
``flare`` define the datasets; ``phantom`` writes synthetic data in their layouts.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.acdc import ACDCDataModule
    from datamodules.base import SegmentationDataModule
    from datamodules.brats import BraTSDataModule
    from datamodules.cache.preprocessing import Preprocessing
    from datamodules.case import Case, DataError, Problem, Survey
    from datamodules.files import (
        DecathlonDataModule,
        ImagesDataModule,
        NNUNetDataModule,
        TableDataModule,
    )
    from datamodules.flare import FLAREDataModule
    from datamodules.hippocampus import HippocampusDataModule
    from datamodules.loading.augmentation import Augmentation
    from datamodules.loading.transform import BatchgeneratorsTransform, TorchIOTransform
    from datamodules.settings import Sampling
    from datamodules.splits import Division

__all__ = [
    "ACDCDataModule",
    "Augmentation",
    "BatchgeneratorsTransform",
    "BraTSDataModule",
    "Case",
    "DataError",
    "DecathlonDataModule",
    "Division",
    "FLAREDataModule",
    "HippocampusDataModule",
    "ImagesDataModule",
    "NNUNetDataModule",
    "Preprocessing",
    "Problem",
    "Sampling",
    "SegmentationDataModule",
    "Survey",
    "TableDataModule",
    "TorchIOTransform",
]

_HOMES = {
    "ACDCDataModule": "acdc",
    "Augmentation": "loading.augmentation",
    "Division": "splits",
    "Preprocessing": "cache.preprocessing",
    "Sampling": "settings",
    "BatchgeneratorsTransform": "loading.transform",
    "TorchIOTransform": "loading.transform",
    "DecathlonDataModule": "files",
    "FLAREDataModule": "flare",
    "HippocampusDataModule": "hippocampus",
    "ImagesDataModule": "files",
    "NNUNetDataModule": "files",
    "TableDataModule": "files",
    "BraTSDataModule": "brats",
    "SegmentationDataModule": "base",
}


def __getattr__(name: str) -> Any:
    """Import a name lazily: processes that write phantoms need neither torch nor lightning."""
    if name in __all__:
        return getattr(import_module(f"datamodules.{_HOMES.get(name, 'case')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
