"""What a look at every case finds: problems, and numbers and pictures of those without."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from nibabel.affines import voxel_sizes

from datamodules.case import Case, Problem
from datamodules.reading.checks import IGNORED, RawCase
from datamodules.reading.grids import Grid, axis_codes
from datamodules.reading.pictures import is_picture

QUANTILES = (0.0, 1.0, 50.0, 99.0, 100.0)  # percent


@dataclass(frozen=True)
class Picture:
    """One slice of a case, the one with most foreground, as it is looked at: right is +x.

    Attributes:
        image: uint8 ``(M, X, Y)``, each modality from its 1st to its 99th percentile, or what the
            intensity window shows.
        label: uint8 ``(X, Y)``.
        aspect: Height of a pixel over its width.
    """

    image: np.ndarray
    label: np.ndarray
    aspect: float


@dataclass(frozen=True)
class CaseFacts:
    """Numbers about a case on its native grid.

    Attributes:
        id: The case's name.
        shape: Voxels along the file's axes.
        prepared: Voxels along the axes of the cache's grid, of which training samples are cut.
        spacing: Voxel size in mm along them.
        codes: Directions of the axes, such as ``LPS``.
        intensities: For each modality, minimum, 1st, 50th and 99th percentile, and maximum; where
            the dataset marks background by 0, of the other voxels.
        volumes: Volume in ml of each class, background included.
        ignored: Share of the voxels that are ignored.
        notes: What is right but should be known.
        picture: A slice to look at, for the cases of the contact sheet.
    """

    id: str
    shape: tuple[int, ...]
    prepared: tuple[int, ...]
    spacing: tuple[float, ...]
    codes: str
    intensities: tuple[tuple[float, ...], ...]
    volumes: tuple[float, ...]
    ignored: float
    notes: tuple[str, ...]
    picture: Picture | None


@dataclass(frozen=True)
class Examination:
    """All problems of a dataset, the facts about the cases that have none, and what to know."""

    problems: tuple[Problem, ...]
    facts: tuple[CaseFacts, ...]
    notes: tuple[str, ...] = ()


def case_facts(
    case: Case,
    raw: RawCase,
    *,
    prepared: tuple[int, ...],
    num_classes: int,
    pictured: bool,
    zero_background: bool = False,
    window: Callable[[int], tuple[float, float] | None] = lambda channel: None,
) -> CaseFacts:
    """Return the facts of a valid case, optionally with its picture."""
    spacing = voxel_sizes(raw.affine)
    turned = None if any(map(is_picture, case.images)) else "LPS"
    volumes: tuple[float, ...] = ()
    ignored = 0.0
    if raw.label is not None:
        counts = np.bincount(raw.label.ravel(), minlength=256)
        ignored = float(counts[IGNORED] / raw.label.size)
        counts[0] = counts[:IGNORED].sum() - counts[1:num_classes].sum()  # outside is background
        volumes = tuple(float(n * spacing.prod() / 1000) for n in counts[:num_classes])
    return CaseFacts(
        id=case.id,
        shape=raw.image.shape[1:],
        prepared=prepared,
        spacing=tuple(float(size) for size in spacing),
        codes=axis_codes(raw.affine),
        intensities=tuple(
            tuple(float(q) for q in np.percentile(values, QUANTILES))
            for values in (c[c != 0] if zero_background else c for c in raw.image)
        ),
        volumes=volumes,
        ignored=ignored,
        notes=raw.notes,
        picture=picture(raw, num_classes, window, turned) if pictured else None,
    )


def picture(
    raw: RawCase,
    num_classes: int,
    window: Callable[[int], tuple[float, float] | None] = lambda channel: None,
    orientation: str | None = "LPS",
) -> Picture:
    """Return the slice with most foreground (the middle one without any), X to the right, Y down.

    Volumes are turned to ``orientation`` first; None leaves pictures as they are.
    """
    label = np.zeros(raw.image.shape[1:], np.uint8) if raw.label is None else raw.label
    grid = Grid(label.shape, raw.affine, orientation)
    seen = grid.forward(np.where(label < num_classes, label, 0)[None], linear=False)[0].numpy()
    area = np.count_nonzero(seen, axis=(0, 1))
    z = int(area.argmax()) if area.any() else seen.shape[2] // 2
    channels = []
    for number, channel in enumerate(raw.image):
        low, high = window(number) or np.percentile(channel, (1, 99))
        flat = grid.forward(channel[None], linear=False)[0, :, :, z].numpy()
        scaled = (flat - low) / max(high - low, 1e-12)
        channels.append((255 * scaled.clip(0, 1)).astype(np.uint8))
    width, height, _ = voxel_sizes(grid.affine)
    return Picture(np.stack(channels), seen[:, :, z], float(height / width))


def patch_notes(facts: Sequence[CaseFacts], patch_size: Sequence[int]) -> list[str]:
    """Return on which axes training samples are larger than what they are cut from, a line each."""
    kind = "slices" if len(patch_size) == 2 else "volumes"
    notes = []
    for axis, wanted in enumerate(patch_size):
        sizes = sorted(fact.prepared[axis] for fact in facts)
        if smaller := sum(size < wanted for size in sizes):
            notes.append(
                f"patch_size {list(patch_size)} is larger than the {kind} of {smaller} of "
                f"{len(sizes)} cases on axis {axis + 1} ({sizes[0]} to {sizes[-1]} voxels after "
                "orientation and resampling): training and evaluation pad them by 0 there."
            )
    return notes


def spread_over(cases: Sequence[Case], count: int) -> set[str]:
    """Return the ids of ``count`` cases, evenly from the first to the last."""
    if not cases or count < 1:
        return set()
    where = np.linspace(0, len(cases) - 1, min(count, len(cases)))
    return {cases[round(float(i))].id for i in where}
