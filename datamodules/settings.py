"""Sampling of training data, and checks of the settings that every datamodule has."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from datamodules.case import DataError, Problem
from datamodules.reading.checks import IGNORED, OUTSIDE

Raters = Literal["majority", "sample", "first", "mean"]
RATERS: tuple[Raters, ...] = ("majority", "sample", "first", "mean")


@dataclass(frozen=True)
class Sampling:
    """How training samples are taken from the volumes.

    Attributes:
        patch_size: Size of a training sample in voxels, one value for each spatial axis; ``"auto"``
            for datasets that choose it from their files (:mod:`datamodules.plan`).
        crop: Where training samples are cropped from larger slices or volumes.
        foreground: Least share of each batch that shows foreground: slices with some, or patches
            centered on foreground, with equal probability for each class of a case.
        samples_per_case: Patches of each training volume in an epoch; slices are taken once each.
        raters: Which label a sample has where a case was labeled by several readers: their
            ``"majority"``, which is also what is scored; that of a reader drawn for each
            ``"sample"``; that of the ``"first"``; or their ``"mean"``, soft labels, for losses
            that take them. Foreground is chosen by the majority.
    """

    patch_size: tuple[int, ...] | Literal["auto"] = (192, 192)
    crop: Literal["center", "random"] = "center"
    foreground: float = 0.0
    samples_per_case: int = 1
    raters: Raters = "majority"

    def __post_init__(self) -> None:
        if self.patch_size != "auto" and min(self.patch_size, default=0) < 1:
            raise ValueError(f"patch_size must be positive, got {self.patch_size}.")
        if self.crop not in ("center", "random"):
            raise ValueError(f"crop must be center or random, got {self.crop!r}.")
        if not 0 <= self.foreground <= 1:
            raise ValueError(f"foreground is a share and must be in [0, 1], got {self.foreground}.")
        if self.samples_per_case < 1:
            raise ValueError(f"samples_per_case must be >= 1, got {self.samples_per_case}.")
        if self.raters not in RATERS:
            raise ValueError(f"raters must be {' or '.join(RATERS)}, got {self.raters!r}.")


class TrainerError(ValueError):
    """A setting of the trainer that the datamodule cannot serve."""

    for_user = True  # a command line shows the message alone, without a traceback


def check_overfit(batches: float) -> None:
    """Raise TrainerError if Lightning would replace our samplers."""
    if batches:
        raise TrainerError(
            f"trainer.overfit_batches must be 0, got {batches:g}: it takes away the samplers that "
            "ranks and resumed runs rest on. To see a network overfit, train on a patient or two "
            "(SPLIT=FILE, --split FILE, of make splits' form)."
        )


def check_classes(num_classes: int, *, dataset: str) -> None:
    """Raise ValueError if there are more classes than the labels of the cache have values."""
    if num_classes > OUTSIDE:
        raise ValueError(
            f"num_classes must be at most {OUTSIDE}, got {num_classes} of {dataset}: labels are "
            f"kept in 8 bits, of which {OUTSIDE} and {IGNORED} mean no class. Merge classes in "
            "label_map."
        )


def check_batch(batch_size: int, *, samples: int, root: Path) -> None:
    """Raise DataError if not even one batch can be made of the training samples of an epoch."""
    if batch_size > samples:
        rule = "a batch must not be larger than the training part"
        fix = f"Take BATCH_SIZE={samples} (--batch-size) or less, or more patients in train."
        found = f"batch_size {batch_size} and {samples} training samples"
        raise DataError([Problem("", str(root), rule, found, fix)])


def check_raters(raters: Raters, *, readers: Collection[int], root: Path) -> None:
    """Raise DataError if a reader is to be drawn, or readers averaged, and there are none.

    Args:
        raters: See :class:`Sampling`.
        readers: Numbers of readers of the training cases.
        root: The data root, for the message.
    """
    found = ", ".join(str(count) for count in sorted(set(readers)))
    rule = ""
    if raters in ("sample", "mean") and max(readers, default=0) < 2:
        rule = f"raters {raters} needs cases with labels of several readers"
    elif raters == "mean" and len(set(readers)) > 1:
        rule = "raters mean needs the same number of readers for all training cases"
    if rule:
        fix = "Leave out RATERS (--raters), or name the readers' folders or columns."
        raise DataError([Problem("", str(root), rule, f"{found} a case", fix)])


def check_dims(
    spatial_dims: int, *, patch_size: Sequence[int] | str, spacing: Sequence[float] | str | None
) -> None:
    """Raise ValueError if a setting has not one value for each of ``spatial_dims`` axes."""
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
    for name, value in (("patch_size", patch_size), ("spacing", spacing)):
        if isinstance(value, str):
            raise ValueError(
                f"{name} must be given for this dataset, got {value}: only datasets that are "
                "described by their files choose it (nnunet, decathlon, images, table)."
            )
        if value is not None and len(value) != spatial_dims:
            raise ValueError(
                f"{name} must have {spatial_dims} values for spatial_dims {spatial_dims}, "
                f"got {value}."
            )


def check_masking(mask: bool, *, dataset: str, marked: bool) -> None:
    """Raise ValueError if background is to be masked that the dataset does not mark."""
    if mask and not marked:
        raise ValueError(
            f"mask_background must be false for {dataset}: its images do not mark the region "
            "outside the patient by 0."
        )


def check_counts(
    *, batch_size: int, num_workers: int, prepare_workers: int | None, seed: int
) -> None:
    """Raise ValueError if a count is too small; ``prepare_workers`` may be None."""
    for name, count, least in (
        ("batch_size", batch_size, 1),
        ("num_workers", num_workers, 0),
        ("prepare_workers", 1 if prepare_workers is None else prepare_workers, 1),
        ("seed", seed, 0),
    ):
        if count < least:
            raise ValueError(f"{name} must be >= {least}, got {count}.")
