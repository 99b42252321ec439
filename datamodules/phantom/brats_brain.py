"""The brain about the tumour: where each tissue is. Plausible, not exact.

Axes point to the patient's left, back and top, in mm from the middle of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datamodules.phantom.random_field import Floats
from datamodules.phantom.shapes import (
    Node,
    Points,
    ellipsoid,
    smooth_field,
    smooth_union,
    tube,
    wavy_field,
)

CORTEX_MM = 3.3
_TOP_TO_FLOOR = 8.0  # level of the hemispheres' centre


@dataclass(frozen=True)
class Brain:
    """Level sets of the tissues on the grid, mm, negative inside.

    Args:
        surface: The brain as a whole.
        pial: Distance to the nearest liquor outside the brain or in a sulcus, positive.
        cerebellum: Cerebellum.
        stem: Brain stem.
        nuclei: Basal ganglia and thalamus.
        ventricles: Ventricles.
        mask: What the stripping of the skull leaves: the brain and, in places, liquor about it.
        sulcus_mm: Half the width of a sulcus.
    """

    surface: Floats
    pial: Floats
    cerebellum: Floats
    stem: Floats
    nuclei: Floats
    ventricles: Floats
    mask: np.ndarray
    sulcus_mm: float


@dataclass(frozen=True)
class BrainShape:
    """What the brain of a patient looks like.

    Args:
        scale: Size along each axis, relative.
        atrophy: Width of ventricles and sulci, relative.
        sulci_mm: How deep the sulci reach.
    """

    scale: tuple[float, float, float]
    atrophy: float
    sulci_mm: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> BrainShape:
        """Draw a patient's brain."""
        width, length, height = rng.normal(1, 0.03, 3).clip(0.93, 1.07).tolist()
        return cls(
            scale=(width, length, height),
            atrophy=float(np.exp(rng.normal(0, 0.25)).clip(0.6, 1.7)),
            sulci_mm=float(rng.uniform(13, 17)),
        )

    def scaled(self, points: Points) -> Points:
        """Return ``points`` in the coordinates of the average brain."""
        x, y, z = (p * np.float32(1 / s) for p, s in zip(points, self.scale, strict=True))
        return x, y, z


def cerebrum(points: Points) -> Floats:
    """Return the outline of both hemispheres with the temporal lobes."""
    x, y, z = points
    side = np.abs(x)
    # Rounder behind than in front, and flat below.
    narrow = np.float32(1) - np.float32(0.0011) * np.clip(-y - 20, 0, None)
    dome = ellipsoid(points_of(side / narrow, y, z), (0, 0, _TOP_TO_FLOOR), (66, 84, 57))
    floor = np.float32(-20) - z + np.float32(0.12) * np.clip(-y, 0, None)
    floor = floor + np.float32(0.16) * np.clip(y - 10, 0, None)  # over the cerebellum
    dome = -smooth_union(-dome, -floor, 14)
    temporal = ellipsoid(points_of(side, y, z), (43, -2, -20), (20, 40, 20))
    return smooth_union(dome, temporal, 10)


def points_of(x: Floats, y: Floats, z: Floats) -> Points:
    """Return the three arrays as points, which keeps the calls above readable."""
    return x, y, z


def outline(points: Points) -> tuple[Floats, Floats, Floats]:
    """Return the level sets of cerebrum, cerebellum and brain stem."""
    x, _, _ = points
    half = ellipsoid(points_of(np.abs(x), *points[1:]), (20, 42, -31), (31, 31, 23))
    stem = tube(points, [(0, 14, -4, 15), (0, 10, -26, 15), (0, 20, -50, 11), (0, 30, -80, 9)])
    return cerebrum(points), half, stem


def find_brain(
    points: Points,
    shape: BrainShape,
    *,
    spacing: tuple[float, float, float],
    rng: np.random.Generator,
) -> Brain:
    """Return where the tissues are at ``points``, which mass effect may have moved.

    The grey matter follows the sulci: sheets that run inwards from the surface where a field,
    constant along the way to the middle of a hemisphere, changes its sign.
    """
    grid = np.broadcast_shapes(*(p.shape for p in points))
    x, y, z = (
        p + np.float32(size) * smooth_field(grid, spacing, 30, rng)
        for p, size in zip(shape.scaled(points), (1.5, 2.5, 2.0), strict=True)
    )
    points = (x, y, z)
    cortex, cerebellum, stem = outline(points)
    surface = np.minimum(smooth_union(cortex, stem, 8), cerebellum)
    depth = -cortex

    # The cleft between the hemispheres, down to the corpus callosum.
    callosum = _oval(y, z, (-1, 8), (43, 22))
    cleft = np.hypot(x, np.maximum(-callosum, 0) + np.maximum(-12 - z, 0))
    # The lateral fissure, above the temporal lobe.
    side = np.abs(x)
    plane = z + 6 - 0.35 * y + 3 * smooth_field(grid, spacing, 14, rng)
    gap = np.maximum(32 - side, 0) + np.maximum(y - 24, 0) + np.maximum(-26 - y, 0)
    lateral = np.hypot(plane, gap)

    sheets = np.minimum(cleft, lateral) + 0.4
    fold = _folds(points, rng)
    steep = np.sqrt(sum(g * g for g in np.gradient(fold, *spacing)))
    reach = shape.sulci_mm * (1 + 0.12 * smooth_field(grid, spacing, 20, rng))
    shallow = np.minimum(depth, 1.8 * np.maximum(cleft - 1, 0))  # less deep in the cleft
    sulci = np.hypot(fold / np.maximum(steep, 0.03), np.maximum(shallow - reach, 0))
    below = np.maximum(-4 - z, 0) * np.clip((30 - side) / 10, 0, 1)  # smooth at the base
    inner = np.maximum(10 - np.abs(callosum), 0) * 0.3  # and about the corpus callosum
    pial = np.minimum(np.minimum(depth, sheets), sulci + inner + 0.5 * below)
    return Brain(
        surface=surface,
        pial=pial,
        cerebellum=cerebellum,
        stem=stem,
        nuclei=_nuclei(points),
        ventricles=_ventricles(points, shape.atrophy),
        mask=surface < 0.5 + 0.9 * smooth_field(grid, spacing, 14, rng),
        sulcus_mm=0.75 * shape.atrophy**0.5,
    )


def _oval(y: Floats, z: Floats, centre: tuple[float, float], radii: tuple[float, float]) -> Floats:
    """Return the distance to an elliptic cylinder along x."""
    flat = np.zeros((1, 1, 1), dtype=np.float32)
    return ellipsoid((flat, y, z), (0, *centre), (1, *radii))


def _folds(points: Points, rng: np.random.Generator) -> Floats:
    """Return a field whose zero set, seen from the middle of each hemisphere, is its sulci."""
    x, y, z = points
    right = x < 0
    dx, dy, dz = np.abs(x) - 24, y * np.float32(0.8), z - np.float32(_TOP_TO_FLOOR)
    ratio = 58 / np.maximum(np.sqrt(dx * dx + dy * dy + dz * dz), 34)
    # The right hemisphere takes its folds from elsewhere in the field.
    return wavy_field((dx * ratio + 160 * right, dy * ratio, dz * ratio), 19.0, rng)


def _mirrored(points: Points, nodes: list[Node]) -> Floats:
    x, y, z = points
    return tube((np.abs(x), y, z), nodes)


def _ventricles(points: Points, atrophy: float) -> Floats:
    """Return lateral, third and fourth ventricle."""
    width = atrophy**0.5
    body: list[Node] = [
        (6, -34, 6, 3.5 * width),
        (8, -20, 12, 5.5 * width),
        (9, 0, 18, 5.5 * width),
        (14, 20, 18, 6.0 * width),
        (22, 32, 8, 7.0 * width),
    ]
    horns: list[Node] = [(22, 32, 8, 6.0 * width), (24, 56, 4, 2.0 * width)]
    lower: list[Node] = [
        (22, 32, 8, 5.5 * width),
        (33, 18, -10, 3.2 * width),
        (32, -8, -20, 2.2 * width),
    ]
    lateral = np.minimum(_mirrored(points, body), _mirrored(points, horns))
    lateral = np.minimum(lateral, _mirrored(points, lower))
    x, _, _ = points
    septum = np.float32(1.2) - np.abs(x)
    lateral = np.maximum(lateral, septum)
    third = np.maximum(np.abs(x) - 1.8 * width, ellipsoid(points, (0, 4, 0), (12, 17, 11)))
    fourth = ellipsoid(points, (0, 29, -32), (7 * width, 6 * width, 13))
    return np.minimum(np.minimum(lateral, third), fourth)


def _nuclei(points: Points) -> Floats:
    """Return thalamus, lentiform nucleus and caudate head."""
    x, y, z = points
    pair = (np.abs(x), y, z)
    thalamus = ellipsoid(pair, (11, 10, 6), (8.5, 14, 9))
    lentiform = ellipsoid(pair, (25.5, -3, 3), (6.5, 17, 10))
    caudate = tube(pair, [(12, -20, 8, 6.0), (16, -6, 20, 4.5), (19, 12, 22, 3.0)])
    return np.minimum(np.minimum(thalamus, lentiform), caudate)
