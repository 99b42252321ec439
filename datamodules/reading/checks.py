"""Read a case from its files and validate its content."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.case import Case, Problem
from datamodules.reading.nifti import is_volume, oddities
from datamodules.reading.pictures import is_picture
from datamodules.reading.posterior import Shares, load_shares
from datamodules.reading.readers import IGNORED, majority, unite_ignored
from datamodules.reading.volumes import NiftiError, Volume, read_image, read_label

OUTSIDE = 254  # background outside the patient: class 0, or ignored with mask_background
_TOLERANCE = 0.2  # voxels by which two grids of one case may differ at a corner
_OWN_LABELS = "Use the dataset's own labels, or map them to these values."
_OWN_PIXELS = (
    "Save masks without smoothing and without JPEG's compression, resample them with nearest "
    "neighbors, or name these values in labels."
)
_NOISE = 1e-3  # by which a label may miss its integer: some programs store labels as floats


@dataclass(frozen=True)
class RawCase:
    """A case on its native grid.

    Attributes:
        image: float32 ``(M, X, Y, Z)``.
        label: uint8 ``(X, Y, Z)``: class indices, 255 for ignored voxels, 254 for background
            outside the patient; or None. Of several readers it is the majority.
        posterior: uint16 shares ``(C, X, Y, Z)`` (:mod:`datamodules.reading.posterior`), or None.
        file_affine: The affine in the first image's file.
        affine: The same grid with the true voxel size.
        notes: What is right but should be known.
        readers: uint8 ``(R, X, Y, Z)``, the labels of several readers; None of a single one. A
            voxel that one of them ignores is 255 in all.
    """

    image: np.ndarray
    label: np.ndarray | None
    posterior: Shares | None
    file_affine: np.ndarray
    affine: np.ndarray
    notes: tuple[str, ...] = ()
    readers: np.ndarray | None = None


def read_case(
    case: Case, *, label_map: Mapping[int, int], num_classes: int, in_channels: int | None = None
) -> tuple[RawCase | None, list[Problem]]:
    """Read a case and check it.

    Args:
        case: The case's files.
        label_map: Class index of each valid label value, unless the case
            has its own scheme.
        num_classes: Number of classes, background included.
        in_channels: Number of channels that the image must have; None for a channel a file.

    Returns:
        The case, None if it has problems, and the problems.
    """
    problems: list[Problem] = []
    label_map = label_map if case.scheme is None else dict(case.scheme.classes)
    ways_out = _OWN_LABELS if case.scheme is None else case.scheme.fix
    if case.label is not None and is_picture(case.label):
        ways_out = _OWN_PIXELS

    def note(path: Path, rule: str, found: str, fix: str) -> None:
        problems.append(Problem(case.id, str(path), rule, found, fix))

    def read(reader: Callable[..., Volume], path: Path, **settings: Any) -> Volume | None:
        try:
            return reader(path, pixel_size=case.pixel_size, **settings)
        except NiftiError as error:
            note(path, error.rule, error.found, error.fix)
            return None

    count = len(case.images) if in_channels is None else in_channels
    first: Volume | None = None
    channels: np.ndarray | None = None
    filled = 0
    for path in case.images:
        volume = read(read_image, path, stacked=case.stacked)
        if volume is None:
            continue
        for wrong in filter(None, map(intensity_fault, volume.data)):
            note(path, *wrong)
        if first is None:
            nothing = np.empty((0, 0, 0), np.float32)  # a view of the voxels would keep them all
            first = Volume(nothing, volume.file_affine, volume.affine)
            shape = volume.data.shape[1:]
            channels = np.empty((count, *shape), dtype=np.float32)
        elif fault := grid_fault(shape, first.affine, volume, what="the modalities of a case"):
            note(path, *fault)
            continue
        assert channels is not None
        if filled + len(volume.data) <= count:
            channels[filled : filled + len(volume.data)] = volume.data
        filled += len(volume.data)
        del volume  # one at a time next to the channels
    if filled != count and not problems:
        rule = f"the image must have {count} channel{'s' * (count != 1)}, as the dataset"
        note(case.images[0], rule, f"{filled}", "Convert it, or leave it out with a split file.")
    labels: list[np.ndarray] = []
    notes: list[str] = []
    colors = has_color_labels(label_map)
    for path in case.label_files:
        if (volume := read(read_label, path, colors=colors)) is None:
            continue
        if first is not None and (fault := grid_fault(shape, first.affine, volume)):
            note(path, *fault)
        if fault := label_fault(
            volume.data, label_map, ways_out, scaling=volume.scaling, colors=is_picture(path)
        ):
            note(path, *fault)
        else:
            labels.append(map_labels(volume.data, label_map))
            if noise := label_noise(volume.data):
                notes.append(f"{path}: labels are up to {noise:.1g} off integers: rounded.")
    posterior = None
    if case.posterior is not None and first is not None:
        try:
            posterior = read_posterior(case.posterior, (num_classes, *shape))
        except NiftiError as error:
            note(case.posterior, error.rule, error.found, error.fix)
    if problems or first is None or channels is None:
        return None, problems
    notes += header_notes(case)
    affines = first.file_affine, first.affine
    if len(labels) < 2:
        label = labels[0] if labels else None
        return RawCase(channels, label, posterior, *affines, tuple(notes)), []
    readers = unite_ignored(np.stack(labels))
    label = majority(readers, num_classes)
    return RawCase(channels, label, posterior, *affines, tuple(notes), readers), []


def has_color_labels(values: Iterable[int]) -> bool:
    """Return True if label values are codes of colors: one has red, or more than 16 bits.

    Every gray but black has, so a dataset without needs no distinction of grays and colors.
    """
    return max(values, default=0) > 0xFFFF


def header_notes(case: Case) -> list[str]:
    """Return notes on the NIfTI headers of a case, without duplicates."""
    files_of: dict[str, list[Path]] = {}
    for path in filter(is_volume, (*case.images, *case.label_files)):
        for text in oddities(path, stacked=case.stacked and path in case.images):
            files_of.setdefault(text, []).append(path)
    notes = []
    for text, same in files_of.items():
        more = f" and {len(same) - 1} more files of the case" if len(same) > 1 else ""
        notes.append(f"{same[0]}{more}: {text}")
    return notes


def intensity_fault(data: np.ndarray) -> tuple[str, str, str] | None:
    """Return (rule, found, fix) if the voxels of an image are not usable, else None."""
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


def label_fault(
    data: np.ndarray,
    label_map: Mapping[int, int],
    fix: str = _OWN_LABELS,
    *,
    scaling: tuple[float, float] = (1.0, 0.0),
    colors: bool = False,
) -> tuple[str, str, str] | None:
    """Return (rule, found, fix) if a label map has values that ``label_map`` lacks, else None.

    Args:
        data: The labels as the header scales them.
        label_map: Class index of each value that may be there.
        fix: What to do about another value.
        scaling: Slope and intercept of the header.
        colors: Whether values of more than 16 bits are codes of colors.
    """

    def shown(value: int) -> str:
        return f"#{value:06x}" if colors and value > 0xFFFF else str(value)

    allowed = ", ".join(shown(value) for value in sorted(label_map))
    values, counts = np.unique(data, return_counts=True)
    with np.errstate(invalid="ignore"):  # of infinity
        fractions = ~(np.abs(values - np.rint(values)) <= _NOISE)
    if fractions.any():
        way_out = "Resample labels with nearest neighbors; never interpolate them."
        if scaling != (1.0, 0.0):
            way_out = (
                f"The header multiplies what is stored by {scaling[0]:g} and adds {scaling[1]:g} "
                "(scl_slope, scl_inter): store labels as integers, without a scale."
            )
        return (
            "labels must be integers",
            f"{int(counts[fractions].sum())} voxels that are not, such as {values[fractions][0]:g}",
            way_out,
        )
    unknown = ~np.isin(np.rint(values), list(label_map))
    if unknown.any():
        found = ", ".join(
            f"{shown(round(value.item()))} ({count} voxels)"
            for value, count in list(zip(values[unknown], counts[unknown], strict=True))[:5]
        )
        return (
            f"labels must be among {allowed}",
            found,
            fix,
        )
    return None


def label_noise(data: np.ndarray) -> float:
    """Return by how much a label map that :func:`label_fault` accepts misses its integers."""
    if data.dtype.kind in "iub":
        return 0.0
    return float(np.abs(data - np.rint(data)).max(initial=0.0))


def map_labels(data: np.ndarray, label_map: Mapping[int, int]) -> np.ndarray:
    """Return the class index of each voxel as uint8."""
    data = data if data.dtype.kind in "iub" else np.rint(data)
    if all(value == index for value, index in label_map.items()):
        return data.astype(np.uint8)
    mapped = np.full(data.shape, IGNORED, dtype=np.uint8)
    for value, index in label_map.items():
        mapped[data == value] = index
    return mapped


def grid_fault(
    shape: tuple[int, ...], affine: np.ndarray, other: Volume, *, what: str = "image and label"
) -> tuple[str, str, str] | None:
    """Return (rule, found, fix) if a volume is not on the grid of its case's image, else None.

    The grids are the same if no corner is off by more than a fifth of a voxel on any axis, which
    forgives rounding in the header and nothing that would move a label.

    Args:
        shape: The first image's shape.
        affine: The first image's true affine.
        other: The label, or another modality.
        what: What the two are, for the message.
    """
    if other.data.shape[-3:] != tuple(shape):
        return (
            f"{what} must have the same shape",
            f"{tuple(shape)} and {other.data.shape[-3:]}",
            "Resample this file to the first image's grid, or take the file of the same case.",
        )
    last = np.array(shape) - 1
    corners = np.array([(*corner, 1) for corner in product(*((0, n) for n in last))])
    moved = corners @ np.linalg.solve(affine, other.affine).T
    shift = float(np.abs(moved - corners).max())
    if shift > _TOLERANCE:
        return (
            f"the affines of {what} must agree to {_TOLERANCE} voxels",
            f"corners {shift:.3g} voxels apart",
            "Resample this file to the first image's grid, or repair the wrong header.",
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
