"""The contract between data and the rest of the package: types of a batch and a datamodule.

:class:`datamodules.SegmentationDataModule` implements it; any other class that does works as well.
``mbls`` imports no dataset.
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
    "PICTURE",
    "Batch",
    "DataModule",
    "cases_of",
    "datamodule_of",
    "derived_in",
    "is_datamodule",
    "missing_from",
    "readers_in",
]

PICTURE = "picture"  # description in the header of a case that was read from a PNG or the like
IGNORE_INDEX = -100  # label of voxels that losses and metrics ignore


class Batch(TypedDict):
    """Batch of a dataloader: training samples, or one whole volume to evaluate.

    Spatial axes ``*S`` are two for slices and three for patches and volumes.
    """

    image: Tensor  # float32 (N, M, *S)
    label: Tensor  # int64 (N, *S), IGNORE_INDEX for ignored voxels; in training also soft labels,
    # float (N, C, *S), the probability of each class, or IGNORE_INDEX in all channels of a voxel
    case: list[str]  # case ids
    index: Tensor  # int64 (N,), position of each case in its part of the split
    spacing: Tensor  # float32 (N, len(S)) in mm
    scored: Tensor  # bool (N,), False for a case that only pads a rank
    posterior: NotRequired[Tensor]  # float32 (N, C, *S), if p(label | image) is known, or the
    # mean of several readers
    readers: NotRequired[Tensor]  # integers (N, R, *S), IGNORE_INDEX for ignored voxels: the labels
    # of R readers, to test against each; label is their majority


class DataModule(Protocol):
    """Interface of a datamodule, in addition to Lightning's hooks."""

    start: tuple[int, int]  # (epoch, batch) at which training resumes

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names, background first."""

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
        """Names of the channels, if there are several."""

    @property
    def spatial_dims(self) -> int:
        """2 to train on slices, 3 on patches of the volume."""

    @property
    def patch_size(self) -> tuple[int, ...] | None:
        """Size of a training sample in voxels; None for whole slices."""

    @property
    def crop(self) -> Literal["center", "random"]:
        """Where training samples are cropped from larger slices or volumes."""

    @property
    def batch_size(self) -> int:
        """Training samples per step, summed over ranks."""

    @property
    def fold(self) -> int | None:
        """The validation fold; None for the dataset's split."""

    @property
    def adapt(self) -> Literal["val", "holdout"]:
        """The cases that an adaptive loss observes."""

    @property
    def predict_input(self) -> Path | None:
        """File or folder to predict; None for the test cases."""

    @property
    def origin(self) -> Literal["real", "phantom"]:
        """Origin of the images."""

    @property
    def fingerprint(self) -> str:
        """Hash of the cases' content, the preprocessing and the split."""

    def prepare(self) -> None:
        """Write the cache, once, before ranks start."""

    def check(self) -> list[Any]:
        """Return all problems of the dataset."""

    def cases(self, split: str) -> list[str]:
        """Return the case ids of a part of the split, in order of their index."""

    def patients(self, split: str) -> list[str]:
        """Return the patient of each case of :meth:`cases`."""

    def restore(self, case_id: str, logits: Tensor) -> tuple[Tensor, np.ndarray]:
        """Return logits ``(C, *native shape)`` on the case's native grid, and its affine."""

    def truth(self, case_id: str) -> dict[str, Tensor]:
        """Return the label of a case on its native grid, as a batch without an image."""

    def source_header(self, case_id: str) -> nib.Nifti1Header:
        """Return the header of a predicted case's file.

        With the description :data:`PICTURE` the label map is written as a PNG.
        """

    def label_values(self, case_id: str) -> tuple[int, ...]:
        """Return the value of each class in a case's label file."""


CONTRACT = tuple(  # names of all members of DataModule
    name for name in (*DataModule.__annotations__, *vars(DataModule)) if not name.startswith("_")
)


def missing_from(data: object) -> list[str]:
    """Return the names in :data:`CONTRACT` that ``data`` lacks, without evaluating properties."""
    there = {*dir(data), *vars(data)}
    return [name for name in CONTRACT if name not in there]


def is_datamodule(data: object) -> TypeGuard[DataModule]:
    """Return True if ``data`` implements :class:`DataModule`."""
    return data is not None and not missing_from(data)


def datamodule_of(trainer: Trainer) -> DataModule | None:
    """Return the trainer's datamodule, or None without one that implements :class:`DataModule`.

    Then results are identified by the loaders' case numbers, and there is no native grid.
    """
    data = getattr(trainer, "datamodule", None)  # set by Lightning, untyped
    return data if is_datamodule(data) else None


def readers_in(data: object, split: str) -> int:
    """Return the largest number of readers of a case, or 0 if no case has several.

    It is that of ``num_readers(split)``, which a datamodule whose batches have ``readers`` has.
    """
    count = getattr(data, "num_readers", lambda split: 1)(split)
    return count if count > 1 else 0


def derived_in(data: object, split: str) -> dict[str, Any]:
    """Return what a datamodule derives from volumes, for the ``meta`` of a test; {} if nothing.

    They are its ``quantities`` (see :func:`mbls.decisions.quantities.quantities_of`) and
    ``phases(split)``, the phase of each case, such as ED and ES of a heart.
    """
    quantities, phases = getattr(data, "quantities", ()), getattr(data, "phases", None)
    if not quantities or phases is None:
        return {}
    return {"quantities": [dict(one) for one in quantities], "phases": list(phases(split))}


def cases_of(loaders: Any) -> int:
    """Return the number of cases of a trainer's first dataloader."""
    several = list(loaders.values()) if isinstance(loaders, Mapping) else loaders
    first = several[0] if isinstance(several, Sequence) else several
    return len(first.dataset)
