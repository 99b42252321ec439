"""Solids as rows of a table: ellipsoids and tubes, where they are, and how they are painted.

Level sets are float32, in mm, and negative inside; places and sizes are in mm.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from datamodules.phantom.posterior import Box, Floats, gaussian_field

Points = tuple[Floats, Floats, Floats]  # x, y, z; arrays that broadcast to one grid
Triple = tuple[float, float, float]
Node = tuple[float, float, float, float]  # a place on a tube's axis, and the radius there
FAR = 99.0
REACH_MM = 26.0  # how far about its nominal extent a solid is looked for


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid; a radius of 1000 makes a cylinder of it."""

    center: Triple
    radii: Triple

    def level(self, points: Points) -> Floats:
        r"""Return the distance to first order: :math:`|u| (|u| - 1) / |u / r|`.

        Here :math:`u = (x - c) / r`, and the zero set is the ellipsoid itself.
        """
        unit = [
            (p - np.float32(c)) * np.float32(1 / r)
            for p, c, r in zip(points, self.center, self.radii, strict=True)
        ]
        slopes = (u * np.float32(1 / r) for u, r in zip(unit, self.radii, strict=True))
        length = np.sqrt(sum(u * u for u in unit))
        slope = np.maximum(np.sqrt(sum(s * s for s in slopes)), np.float32(1e-6))
        distance = length * (length - 1) / slope
        return np.where(length < 1e-4, np.float32(-min(self.radii)), distance)  # no slope there

    def changed(self, shift: Triple, size: float) -> Ellipsoid:
        """Return the ellipsoid moved by ``shift`` and ``size`` times as large."""
        x, y, z = (c + s for c, s in zip(self.center, shift, strict=True))
        a, b, c = (r * size for r in self.radii)
        return Ellipsoid((x, y, z), (a, b, c))

    def corners(self) -> list[list[float]]:
        """Return two corners of the box about it."""
        pairs = list(zip(self.center, self.radii, strict=True))
        return [[c - r for c, r in pairs], [c + r for c, r in pairs]]


@dataclass(frozen=True)
class Tube:
    """A tube along two nodes or more, its radius linear between them."""

    nodes: tuple[Node, ...]

    def level(self, points: Points) -> Floats:
        """Return about the distance; exact where the radius does not change."""
        x, y, z = points
        parts = []
        for start, end in itertools.pairwise(self.nodes):
            ax, ay, az, rise = (np.float32(b - a) for a, b in zip(start, end, strict=True))
            dx, dy, dz = (p - np.float32(s) for p, s in zip((x, y, z), start[:3], strict=True))
            length = max(float(ax * ax + ay * ay + az * az), 1e-6)
            along = np.clip((dx * ax + dy * ay + dz * az) / np.float32(length), 0, 1)
            gap = (dx - along * ax) ** 2 + (dy - along * ay) ** 2 + (dz - along * az) ** 2
            parts.append(np.sqrt(gap) - (np.float32(start[3]) + along * rise))
        return np.minimum.reduce(parts)

    def changed(self, shift: Triple, size: float) -> Tube:
        """Return the tube moved by ``shift`` and ``size`` times as thick."""
        a, b, c = shift
        return Tube(tuple((x + a, y + b, z + c, r * size) for x, y, z, r in self.nodes))

    def corners(self) -> list[list[float]]:
        """Return two corners of the box about each node."""
        return [[p + s * node[3] for p in node[:3]] for node in self.nodes for s in (-1, 1)]


@dataclass(frozen=True)
class Shape:
    """One row of a dataset's table: a solid, what it looks like, and how it is labeled.

    Args:
        name: Name of the tissue.
        signal: Signal in each channel.
        parts: What it consists of.
        minus: What is cut out of it.
        mirrored: True if it is at both x and -x.
        blend_mm: Over how many mm the parts blend into one another.
        move_mm: Standard deviation of its place from patient to patient, mm.
        scale: Standard deviation of its relative size.
        labels: Its label in each numbering of the dataset, 0 without a label.
        sigma_mm: Standard deviation of the annotated boundary, mm.
    """

    name: str
    signal: tuple[float, ...]
    parts: tuple[Ellipsoid | Tube, ...]
    minus: tuple[Ellipsoid | Tube, ...] = ()
    mirrored: bool = False
    blend_mm: float = 8.0
    move_mm: float = 0.0
    scale: float = 0.0
    labels: tuple[int, ...] = ()
    sigma_mm: float = 0.0

    def varied(self, rng: np.random.Generator) -> Shape:
        """Return the shape of one patient; sizes stay within two standard deviations."""
        x, y, z = rng.normal(0, self.move_mm, 3).tolist()
        size = 1 + self.scale * float(np.clip(rng.normal(), -2, 2))
        parts, minus = (
            tuple(part.changed((x, y, z), size) for part in some)
            for some in (self.parts, self.minus)
        )
        return replace(self, parts=parts, minus=minus)

    def level(self, points: Points) -> Floats:
        """Return the level set at ``points``."""
        x, y, z = points
        points = (np.abs(x), y, z) if self.mirrored else points
        level = self.parts[0].level(points)
        for part in self.parts[1:]:
            level = smooth_union(level, part.level(points), self.blend_mm)
        for part in self.minus:
            level = -smooth_union(-level, part.level(points), self.blend_mm)
        return level


@dataclass(frozen=True)
class Grid:
    """Where the voxels are.

    Args:
        axes: Voxel centers along each axis, as an open mesh: to find boxes.
        points: The same places in the coordinates of the tables, scaled and warped.
    """

    axes: Points
    points: Points

    def level(self, shape: Shape) -> tuple[Floats, Box]:
        """Return the level set of ``shape`` in its bounding box, and the box."""
        corners = np.array([corner for part in shape.parts for corner in part.corners()])
        low, high = corners.min(axis=0), corners.max(axis=0)
        if shape.mirrored:
            low[0] = -high[0]
        box = []
        for axis, first, last in zip(self.axes, low, high, strict=True):
            ends = np.searchsorted(axis.ravel(), (first - REACH_MM, last + REACH_MM))
            start = min(int(ends[0]), axis.size - 1)
            box.append(slice(start, max(int(ends[1]), start + 1)))
        where: Box = (box[0], box[1], box[2])
        return shape.level(self.within(where)), where

    def within(self, box: Box) -> Points:
        """Return the points of a box."""
        x, y, z = (p[box] for p in self.points)
        return x, y, z


def grid_points(shape: Sequence[int], spacing: Sequence[float]) -> Points:
    """Return the voxel centers of a grid about its middle, as an open mesh of float32."""
    x, y, z = (
        ((np.arange(n) - (n - 1) / 2) * step).astype(np.float32)
        for n, step in zip(shape, spacing, strict=True)
    )
    return x[:, None, None], y[None, :, None], z[None, None, :]


def warped(
    axes: Points,
    scale: Sequence[float],
    size: Sequence[float],
    *,
    length: float,
    spacing: Sequence[float],
    rng: np.random.Generator,
) -> Points:
    """Return ``axes`` in the coordinates of a patient ``scale`` times as large.

    They are moved by smooth fields of the standard deviations ``size`` along each axis, mm, that
    vary over ``length`` mm.
    """
    shape = [axis.size for axis in axes]
    x, y, z = (
        axis * np.float32(1 / s) + np.float32(sd) * smooth_field(shape, spacing, length, rng)
        for axis, s, sd in zip(axes, scale, size, strict=True)
    )
    return x, y, z


def smooth_union(first: Floats, second: Floats, width: float) -> Floats:
    """Return the union of two solids with a fillet: they blend where within ``width`` mm."""
    blend = np.maximum(np.float32(width) - np.abs(first - second), 0)
    return np.minimum(first, second) - blend * blend * np.float32(0.25 / width)


def smooth_field(
    shape: Sequence[int], spacing: Sequence[float], length: float, rng: np.random.Generator
) -> Floats:
    """Draw a smooth field of about unit variance: a coarse one, interpolated.

    For shapes and shading, where the variance need not be exact; many times faster than
    :func:`~datamodules.phantom.posterior.gaussian_field` on the grid itself.
    """
    step = length / 2
    if step < 1.5 * max(spacing):  # a coarser grid would save nothing
        noise = rng.standard_normal(tuple(shape), dtype=np.float32)
        width = [length / s / math.sqrt(2) for s in spacing]
        field = gaussian_filter(noise, width, mode="wrap", truncate=3)
        return field / field.std()
    nodes = [math.ceil((n - 1) * s / step) + 2 for n, s in zip(shape, spacing, strict=True)]
    field = gaussian_field(nodes, (step,) * 3, (length,) * 3, rng)
    for axis, (n, s) in enumerate(zip(shape, spacing, strict=True)):
        place = np.arange(n) * (s / step)
        low = place.astype(int)
        share = (place - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        first = field.take(low, axis)
        field = first + share * (field.take(low + 1, axis) - first)
    return field


def box_about(distance: Floats, margin: float) -> Box:
    """Return the smallest box that contains all voxels of ``distance`` below ``margin`` mm."""
    near = distance < margin
    if not near.any():
        return slice(0, 1), slice(0, 1), slice(0, 1)
    box = []
    for axis in range(3):
        hit = np.flatnonzero(near.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return box[0], box[1], box[2]


def paint(image: Floats, signal: float | Floats, level: Floats, width: float) -> None:
    """Lay a tissue over ``image`` ``(M, X, Y, Z)`` in place, with its share of each voxel.

    Args:
        image: One volume for each channel.
        signal: A number, or an array that broadcasts to ``image``.
        level: Level set of the tissue ``(X, Y, Z)``, mm.
        width: Over how many mm a straight edge goes from none to all: a voxel or more.
    """
    share = np.clip(0.5 - level / np.float32(width), 0, 1)
    image += share * (signal - image)


def textured(signal: Sequence[float] | Floats, texture: Floats | float = 1.0) -> Floats:
    """Return ``signal`` ``(M,)`` as ``(M, X, Y, Z)`` or ``(M, 1, 1, 1)``, times ``texture``."""
    return np.asarray(signal, dtype=np.float32).reshape(-1, 1, 1, 1) * texture
