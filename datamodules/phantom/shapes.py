"""Smooth solids in three dimensions, as level sets in mm that are negative inside."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import fft
from scipy.ndimage import gaussian_filter, map_coordinates

from datamodules.phantom.layers import Box
from datamodules.phantom.random_field import Floats, gaussian_field
from datamodules.phantom.surface import coverage

Points = tuple[Floats, Floats, Floats]  # x, y, z in mm, arrays that broadcast to one grid
Node = tuple[float, float, float, float]  # a place on a tube's axis and the radius there, mm
FAR = 99.0


def grid_points(shape: Sequence[int], spacing: Sequence[float]) -> Points:
    """Return the voxel centres of a grid about its middle, as an open mesh of float32."""
    axes = [
        ((np.arange(n) - (n - 1) / 2) * step).astype(np.float32)
        for n, step in zip(shape, spacing, strict=True)
    ]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    return x, y, z


def ellipsoid(points: Points, centre: Sequence[float], radii: Sequence[float]) -> Floats:
    r"""Return the distance to an ellipsoid to first order: :math:`|u| (|u| - 1) / |u / r|`.

    Here :math:`u = (x - c) / r`, and the zero set is the ellipsoid itself.
    """
    unit = [
        (p - np.float32(c)) * np.float32(1 / r)
        for p, c, r in zip(points, centre, radii, strict=True)
    ]
    level = np.sqrt(sum(u * u for u in unit))
    slope = np.sqrt(sum((u * np.float32(1 / r)) ** 2 for u, r in zip(unit, radii, strict=True)))
    distance = level * (level - 1) / np.maximum(slope, np.float32(1e-6))
    return np.where(level < 1e-4, np.float32(-min(radii)), distance)  # the centre has no slope


def tube(points: Points, nodes: Sequence[Node]) -> Floats:
    """Return about the distance to a tube along ``nodes``, its radius linear between them."""
    x, y, z = points
    result: Floats | None = None
    for start, end in itertools.pairwise(nodes):
        axis = [b - a for a, b in zip(start[:3], end[:3], strict=True)]
        length = max(sum(a * a for a in axis), 1e-6)
        dx, dy, dz = x - np.float32(start[0]), y - np.float32(start[1]), z - np.float32(start[2])
        along = (dx * np.float32(axis[0]) + dy * np.float32(axis[1])) + dz * np.float32(axis[2])
        along = np.clip(along / np.float32(length), 0, 1)
        gap = (dx - along * np.float32(axis[0])) ** 2
        gap = gap + (dy - along * np.float32(axis[1])) ** 2
        gap = gap + (dz - along * np.float32(axis[2])) ** 2
        part = np.sqrt(gap) - (np.float32(start[3]) + along * np.float32(end[3] - start[3]))
        result = part if result is None else np.minimum(result, part)
    if result is None:
        raise ValueError(f"a tube needs two nodes or more, got {len(nodes)}.")
    return result


def smooth_union(first: Floats, second: Floats, width: float) -> Floats:
    """Return the union of two solids with a fillet: they blend where within ``width`` mm."""
    blend = np.maximum(np.float32(width) - np.abs(first - second), 0)
    return np.minimum(first, second) - blend * blend * np.float32(0.25 / width)


def smooth_field(
    shape: Sequence[int], spacing: Sequence[float], length: float, rng: np.random.Generator
) -> Floats:
    """Draw a smooth field of about unit variance: a coarse one, interpolated.

    For shapes and shading, where the variance need not be exact; many times faster than
    :func:`~datamodules.phantom.random_field.gaussian_field` on the grid itself.
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


def wavy_field(points: Points, wavelength: float, rng: np.random.Generator) -> Floats:
    """Draw a field of one dominant wavelength (mm) and unit variance at arbitrary places.

    Its zero set winds at distances of half a wavelength, like folds. It repeats after 12.8
    wavelengths.
    """
    n, step = 64, wavelength / 5
    wave = fft.fftfreq(n, step).astype(np.float32)
    half = fft.rfftfreq(n, step).astype(np.float32)
    size = np.sqrt(wave[:, None, None] ** 2 + wave[:, None] ** 2 + half**2) * wavelength
    gain = np.exp(-0.5 * ((size - 1) / 0.22) ** 2)
    noise = rng.standard_normal((n, n, n), dtype=np.float32)
    field = fft.irfftn(fft.rfftn(noise, workers=1) * gain, s=(n, n, n), workers=1)
    field /= field.std()
    where = np.stack(np.broadcast_arrays(*points)) * np.float32(1 / step)
    return map_coordinates(field, where, order=1, mode="grid-wrap", output=np.float32)


def in_box(
    points: Points, solid: Callable[[Points], Floats], box: Box, shape: Sequence[int]
) -> Floats:
    """Return ``solid`` evaluated in ``box`` alone, on the whole grid, :data:`FAR` elsewhere."""
    whole = np.full(shape, FAR, dtype=np.float32)
    x, y, z = (np.broadcast_to(p, shape)[box] for p in points)
    whole[box] = solid((x, y, z))
    return whole


def box_about(distance: Floats, margin: float) -> Box:
    """Return the smallest box that holds all voxels of ``distance`` below ``margin`` mm."""
    near = distance < margin
    if not near.any():
        return slice(0, 1), slice(0, 1), slice(0, 1)
    box = []
    for axis in range(3):
        hit = np.flatnonzero(near.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return box[0], box[1], box[2]


def paint(image: Floats, signal: Floats, distance: Floats, width: float) -> None:
    """Lay a tissue over ``image`` ``(M, X, Y, Z)`` in place, with its share of each voxel.

    Args:
        image: One volume for each modality.
        signal: Signal in each modality ``(M, 1, 1, 1)`` or ``(M, X, Y, Z)``.
        distance: Level set of the tissue, mm.
        width: Over how many mm the edge goes from none to all: a voxel or more.
    """
    share = coverage(distance, width)
    box = box_about(-share, 0.0)
    part = image[:, *box]
    part += share[box] * ((signal[:, *box] if signal.shape[-1] > 1 else signal) - part)
