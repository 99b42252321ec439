"""The contract between data and the rest: a batch, and what a datamodule answers, as types.

A dataset's class derives from :class:`datamodules.SegmentationDataModule`, which keeps the
contract; whatever else keeps it works as well. ``mbls`` imports no dataset.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NotRequired, Protocol, TypedDict, TypeGuard

import nibabel as nib
import numpy as np
from lightning.pytorch import Trainer
from torch import Tensor

__all__ = [
    "CONTRACT",
    "IGNORE_INDEX",
    "Batch",
    "DataModule",
    "cases_of",
    "datamodule_of",
    "is_datamodule",
    "missing_from",
]

IGNORE_INDEX = -100  # the label of voxels that no loss and no metric sees


class Batch(TypedDict):
    """What a loader yields: samples to train on, or one whole volume to evaluate.

    Spatial axes ``*S`` are two for slices and three for patches and volumes.
    """

    image: Tensor  # float32 (N, M, *S)
    label: Tensor  # int64 (N, *S), IGNORE_INDEX where a voxel takes no part
    case: list[str]  # the cases' ids
    index: Tensor  # int64 (N,), each case's number in its part of the split
    spacing: Tensor  # float32 (N, len(S)) in mm
    scored: Tensor  # bool (N,), False for a case that only pads a rank
    posterior: NotRequired[Tensor]  # float32 (N, C, *S), where p(label | image) is known


class DataModule(Protocol):
    """What the rest may ask of a datamodule, besides Lightning's own hooks."""

    start: tuple[int, int]  # (epoch, batch) at which training resumes

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Their names, background first."""

    @property
    def class_keys(self) -> tuple[str, ...]:
        """Short names of the classes, for logged keys."""

    @property
    def unions(self) -> Mapping[str, tuple[int, ...]]:
        """Named sets of classes that are scored together."""

    @property
    def in_channels(self) -> int:
        """Number of channels of an image."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the channels, where there are several."""

    @property
    def spatial_dims(self) -> int:
        """2 to train on slices, 3 on patches of the volume."""

    @property
    def patch_size(self) -> tuple[int, ...] | None:
        """Size of a training sample in voxels; None for whole slices."""

    @property
    def crop(self) -> Literal["center", "random"]:
        """Where a training sample is cut out of what is larger."""

    @property
    def batch_size(self) -> int:
        """Training samples in a step, over all ranks together."""

    @property
    def fold(self) -> int | None:
        """The fold that validates; None for the split as it is."""

    @property
    def adapt(self) -> Literal["val", "holdout"]:
        """The cases that an adaptive loss observes."""

    @property
    def predict_input(self) -> Path | None:
        """File or folder to predict; None for the test part."""

    @property
    def origin(self) -> Literal["real", "phantom"]:
        """Where the images come from."""

    @property
    def fingerprint(self) -> str:
        """Hash of the cases' content, the preprocessing and the split."""

    def prepare(self) -> None:
        """Write what training reads, once, before ranks start."""

    def check(self) -> list[Any]:
        """Return all problems of the dataset."""

    def cases(self, split: str) -> list[str]:
        """Return the ids of the cases of a part, by index."""

    def patients(self, split: str) -> list[str]:
        """Return the patient of each case of :meth:`cases`."""

    def restore(self, case_id: str, logits: Tensor) -> tuple[Tensor, np.ndarray]:
        """Return logits ``(C, *native shape)`` on the case's own grid, and its affine."""

    def truth(self, case_id: str) -> dict[str, Tensor]:
        """Return the label of a case on its own grid, a batch without an image."""

    def source_header(self, case_id: str) -> nib.Nifti1Header:
        """Return the header of a predicted case's file."""

    def label_values(self, case_id: str) -> tuple[int, ...]:
        """Return the value of each class in a case's label file."""


CONTRACT = tuple(  # the names of all that a DataModule answers
    name for name in (*DataModule.__annotations__, *vars(DataModule)) if not name.startswith("_")
)


def missing_from(data: object) -> list[str]:
    """Return the names in :data:`CONTRACT` that ``data`` lacks; no property is evaluated."""
    there = {*dir(data), *vars(data)}
    return [name for name in CONTRACT if name not in there]


def is_datamodule(data: object) -> TypeGuard[DataModule]:
    """Return True if ``data`` keeps the contract of :class:`DataModule`."""
    return data is not None and not missing_from(data)


def datamodule_of(trainer: Trainer) -> DataModule | None:
    """Return the trainer's datamodule; None for dataloaders alone, or another kind of datamodule.

    Both are evaluated by what their loaders yield: case numbers, and no native grid.
    """
    data = getattr(trainer, "datamodule", None)  # which lightning attaches without a type
    return data if is_datamodule(data) else None


def cases_of(loaders: Any) -> int:
    """Return how many cases the first of a trainer's dataloaders has."""
    several = list(loaders.values()) if isinstance(loaders, Mapping) else loaders
    first = several[0] if isinstance(several, Sequence) else several
    return len(first.dataset)
