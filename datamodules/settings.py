"""Checks the settings that every datamodule has; those of the cache are Preprocessing's own."""

from collections.abc import Sequence
from pathlib import Path

from datamodules.case import DataError, Problem
from datamodules.reading.checks import IGNORED, OUTSIDE
from datamodules.splits import HOLDOUT


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


def check_division(
    *,
    fold: int | None,
    folds: int,
    divided: bool = False,
    val_fraction: float,
    test_fraction: float,
    adapt: str = "val",
    holdout_fraction: float = 0.1,
) -> None:
    """Raise ValueError if patients cannot be divided so.

    Where a file may have ``divided`` them into folds, their number is not ``folds``.
    """
    if folds < 2:
        raise ValueError(f"folds must be at least 2, got {folds}.")
    if fold is not None and (fold < 0 or (fold >= folds and not divided)):
        most = "" if divided else f"{folds - 1}"
        raise ValueError(f"fold must be null or in 0..{most}, got {fold}.")
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
        raise ValueError(
            "val_fraction and test_fraction must be >= 0 and leave a share for training, "
            f"got {val_fraction} and {test_fraction}."
        )
    if adapt not in ("val", HOLDOUT):
        raise ValueError(f"adapt must be val or {HOLDOUT}, got {adapt!r}.")
    if not 0 < holdout_fraction < 1:
        raise ValueError(f"holdout_fraction must be in (0, 1), got {holdout_fraction}.")


def check_patches(
    spatial_dims: int,
    *,
    patch_size: Sequence[int],
    spacing: Sequence[float] | None,
    crop: str,
    foreground: float = 0.0,
) -> None:
    """Raise ValueError if training samples of ``spatial_dims`` axes cannot be cut so."""
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
    for name, value in (("patch_size", patch_size), ("spacing", spacing)):
        if value is not None and len(value) != spatial_dims:
            raise ValueError(
                f"{name} must have {spatial_dims} values for spatial_dims {spatial_dims}, "
                f"got {value}."
            )
    if min(patch_size) < 1:
        raise ValueError(f"patch_size must be positive, got {patch_size}.")
    if crop not in ("center", "random"):
        raise ValueError(f"crop must be center or random, got {crop!r}.")
    if not 0 <= foreground <= 1:
        raise ValueError(f"foreground is a share and must be in [0, 1], got {foreground}.")


def check_masking(mask: bool, *, dataset: str, marked: bool) -> None:
    """Raise ValueError if background is to be masked that the dataset does not mark."""
    if mask and not marked:
        raise ValueError(
            f"mask_background must be false for {dataset}: its images do not mark the region "
            "outside the patient by 0."
        )


def check_counts(
    *,
    batch_size: int,
    num_workers: int,
    prepare_workers: int | None,
    seed: int,
    samples_per_case: int = 1,
) -> None:
    """Raise ValueError if a count is too small; ``prepare_workers`` may be None."""
    for name, count, least in (
        ("batch_size", batch_size, 1),
        ("num_workers", num_workers, 0),
        ("prepare_workers", 1 if prepare_workers is None else prepare_workers, 1),
        ("samples_per_case", samples_per_case, 1),
        ("seed", seed, 0),
    ):
        if count < least:
            raise ValueError(f"{name} must be >= {least}, got {count}.")
