"""Reads a case from its files and checks every rule that its content must keep."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from datamodules.case import Case, Problem
from datamodules.nifti import NiftiError, Volume, read_volume
from datamodules.posterior import Shares, load_shares

IGNORED = 255  # the value of an ignored voxel on disk; -100 in batches
_TOLERANCE = 0.2  # voxels by which two grids of one case may differ at a corner


@dataclass(frozen=True)
class RawCase:
    """A case on its native grid.

    Attributes:
        image: float32 ``(M, X, Y, Z)``.
        label: uint8 ``(X, Y, Z)``, class indices and 255 for ignored voxels, or None.
        posterior: uint16 shares ``(C, X, Y, Z)`` (:mod:`datamodules.posterior`), or None.
        file_affine: The affine in the first image's file.
        affine: The same grid with the true voxel size.
    """

    image: np.ndarray
    label: np.ndarray | None
    posterior: Shares | None
    file_affine: np.ndarray
    affine: np.ndarray


def read_case(
    case: Case, *, label_map: Mapping[int, int], num_classes: int
) -> tuple[RawCase | None, list[Problem]]:
    """Read a case and check it.

    Args:
        case: The case's files.
        label_map: Class index of each label value that may stand in the label file.
        num_classes: Number of classes, background included.

    Returns:
        The case, None if it has problems, and the problems.
    """
    problems: list[Problem] = []

    def note(path: Path, rule: str, found: str, fix: str) -> None:
        problems.append(Problem(case.id, str(path), rule, found, fix))

    def read(path: Path, dtype: type[np.floating] | None = None) -> Volume | None:
        try:
            return read_volume(path, dtype=dtype)
        except NiftiError as error:
            note(path, error.rule, error.found, error.fix)
            return None

    images = [read(path, np.float32) for path in case.images]
    first = images[0]
    for path, image in zip(case.images, images, strict=True):
        if image is None:
            continue
        if fault := intensity_fault(image.data):
            note(path, *fault)
        if first is not None and (fault := grid_fault(first, image)):
            note(path, *fault)
    label = None
    if case.label is not None and (volume := read(case.label)) is not None:
        if first is not None and (fault := grid_fault(first, volume)):
            note(case.label, *fault)
        if fault := label_fault(volume.data, label_map):
            note(case.label, *fault)
        else:
            label = map_labels(volume.data, label_map)
    posterior = None
    if case.posterior is not None and first is not None:
        try:
            posterior = read_posterior(case.posterior, (num_classes, *first.data.shape))
        except NiftiError as error:
            note(case.posterior, error.rule, error.found, error.fix)
    if problems or first is None:
        return None, problems
    channels = np.stack([channel.data for channel in images if channel is not None])
    return RawCase(channels, label, posterior, first.file_affine, first.affine), []


def intensity_fault(data: np.ndarray) -> tuple[str, str, str] | None:
    """Return (rule, found, fix) if the voxels of an image are not usable, else None."""
    if data.size == 0:
        return "the image must have voxels", f"shape {data.shape}", "Export the image again."
    finite = np.isfinite(data)
    if not finite.all():
        count, where = int((~finite).sum()), tuple(int(i) for i in np.argwhere(~finite)[0])
        return (
            "voxels must be finite",
            f"{count} NaN or infinite voxels, the first at {where}",
            "Export the image again, or leave the patient out with a split file.",
        )
    if data.min() == data.max():
        value = float(data.flat[0])
        return (
            "the image must not be constant",
            "an image of zeros" if value == 0 else f"the value {value:g} in every voxel",
            "Download the image again, or leave the patient out with a split file.",
        )
    return None


def label_fault(data: np.ndarray, label_map: Mapping[int, int]) -> tuple[str, str, str] | None:
    """Return (rule, found, fix) if a label map holds what ``label_map`` does not, else None."""
    allowed = ", ".join(str(value) for value in sorted(label_map))
    values, counts = np.unique(data, return_counts=True)
    fractions = ~np.isfinite(values) | (values != np.rint(values))
    if fractions.any():
        return (
            "labels must be integers",
            f"{int(counts[fractions].sum())} voxels that are not, such as {values[fractions][0]:g}",
            "Resample labels with nearest neighbours; never interpolate them.",
        )
    unknown = ~np.isin(values, list(label_map))
    if unknown.any():
        found = ", ".join(
            f"{int(value)} ({count} voxels)"
            for value, count in list(zip(values[unknown], counts[unknown], strict=True))[:5]
        )
        return (
            f"labels must be among {allowed}",
            found,
            "Use the dataset's own labels, or map them to these values.",
        )
    return None


def map_labels(data: np.ndarray, label_map: Mapping[int, int]) -> np.ndarray:
    """Return the class index of each voxel as uint8."""
    data = np.rint(data).astype(np.int64)
    if all(value == index for value, index in label_map.items()):
        return data.astype(np.uint8)
    mapped = np.full(data.shape, IGNORED, dtype=np.uint8)
    for value, index in label_map.items():
        mapped[data == value] = index
    return mapped


def grid_fault(image: Volume, other: Volume) -> tuple[str, str, str] | None:
    """Return (rule, found, fix) if two volumes of a case are not on the same grid, else None.

    The grids are the same if no corner is off by more than a fifth of a voxel on any axis, which
    forgives rounding in the header and nothing that would move a label.
    """
    if image.data.shape != other.data.shape:
        return (
            "image and label must have the same shape",
            f"{image.data.shape} and {other.data.shape}",
            "Resample the label to the image's grid.",
        )
    last = np.array(image.data.shape) - 1
    corners = np.array([(*corner, 1) for corner in product(*((0, n) for n in last))])
    moved = corners @ np.linalg.solve(image.affine, other.affine).T
    shift = float(np.abs(moved - corners).max())
    if shift > _TOLERANCE:
        return (
            f"the affines of image and label must agree to {_TOLERANCE} voxels",
            f"corners {shift:.3g} voxels apart",
            "Resample the label to the image's grid, or repair the wrong header.",
        )
    return None


def read_posterior(path: Path, shape: tuple[int, ...]) -> Shares:
    """Read the shares ``(C, X, Y, Z)`` of p(label | image)."""
    rule, fix = "the posterior must fit the image", "Write the phantom again."
    try:
        shares = load_shares(path)
    except ValueError as error:
        raise NiftiError(rule, str(error).rstrip("."), fix) from error
    if shares.shape != shape:
        raise NiftiError(rule, f"shape {shares.shape} in place of {shape}", fix)
    return shares
