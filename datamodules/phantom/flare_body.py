"""What surrounds the organs: body wall, skeleton, lungs, heart, bowel, table. Plausible only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from datamodules.phantom.random_field import Floats
from datamodules.phantom.shapes import Node, Points, ellipsoid, smooth_field, tube, wavy_field
from datamodules.phantom.surface import coverage

INNER_MM = (130.0, 92.0)  # half the width and depth of the body inside its wall
WALL_MM = 12.0


@dataclass(frozen=True)
class Build:
    """The build of a patient.

    Args:
        scale: Size along each axis relative to the average.
        fat_mm: Thickness of the fat under the skin, in front and at the sides.
        contrast: Whether the scan is in the portal venous phase.
        height: Level of the middle of the scan, mm.
    """

    scale: tuple[float, float, float]
    fat_mm: float
    contrast: bool
    height: float

    @classmethod
    def draw(cls, contrast: bool, extent_mm: float, rng: np.random.Generator) -> Build:
        """Draw a patient whose body fits in a field of view of ``extent_mm``."""
        wide, deep, tall = rng.normal(1, 0.045, 3).clip(0.9, 1.1).tolist()
        fat = float(rng.uniform(8, 26))
        room = extent_mm / 2 - 4 - WALL_MM - 1.2 * fat
        return cls(
            scale=(min(wide, room / INNER_MM[0]), deep, tall),
            fat_mm=fat,
            contrast=contrast,
            height=float(rng.uniform(-4, 22)),
        )


def inner_cavity(points: Points) -> Floats:
    """Return the level set of the body inside its wall, a rounded box in each slice."""
    return rounded(points, INNER_MM)


def rounded(points: Points, half: tuple[float, float], power: float = 2.25) -> Floats:
    """Return the distance to a cylinder along z between an ellipse and a box, to first order."""
    x, y, _ = points
    u, v = np.abs(x) / np.float32(half[0]), np.abs(y) / np.float32(half[1])
    level = np.maximum((u**power + v**power) ** (1 / power), 1e-3)
    slope = np.hypot((u / level) ** (power - 1) / half[0], (v / level) ** (power - 1) / half[1])
    distance = (level - 1) / np.maximum(slope, 1 / max(half))  # the axis has no slope
    return distance.astype(np.float32)


def lay(image: Floats, value: float | Floats, distance: Floats, width: float) -> None:
    """Lay a tissue over ``image`` in place, with its share of each voxel."""
    share = coverage(distance, width)
    image += share * (value - image)


def draw_body(
    axes: Points,
    points: Points,
    cavity: Floats,
    build: Build,
    *,
    spacing: tuple[float, float, float],
    rng: np.random.Generator,
) -> Floats:
    """Return the CT without the organs, in HU.

    Args:
        axes: Voxel centres, mm: for what is not part of the body.
        points: The same in the coordinates of the average patient.
        cavity: Level set of the inside of the body wall.
        build: The patient.
        spacing: Voxel size, mm.
        rng: Source of sizes and textures.
    """
    grid, pixel = cavity.shape, spacing[0]
    x, _, _ = points
    enhanced = 1.0 if build.contrast else 0.0

    def field(length: float) -> Floats:
        return smooth_field(grid, spacing, length, rng)

    grain = field(4)
    image = np.full(grid, -1000, dtype=np.float32)
    _table(image, axes, build, pixel)
    side = np.float32(1) + 0.35 * np.minimum(np.abs(x) / 130, 1)
    skin = cavity - np.float32(WALL_MM) - np.float32(build.fat_mm) * side
    lay(image, 20, skin, pixel)
    lay(image, -108 + 5 * grain, skin + 2, pixel)
    muscle = 52 + 14 * enhanced + 9 * grain
    lay(image, muscle, cavity - np.float32(WALL_MM), pixel)
    layers = 7 * np.sin(cavity * np.float32(1.05)) - 3.5 + 2.5 * field(12)  # fat between muscles
    lay(image, -80, np.maximum(-layers, np.abs(cavity - 6) - 5), 2 * pixel)
    lay(image, -100 + 8 * grain, cavity, pixel)
    _muscles(image, points, muscle, pixel)
    _bowel(image, points, cavity, enhanced, pixel, rng)
    _chest(image, points, cavity, enhanced, field, pixel)
    _skeleton(image, points, cavity, field(3.5), pixel)
    return image


def _table(image: Floats, axes: Points, build: Build, pixel: float) -> None:
    x, y, _ = axes
    back = INNER_MM[1] * build.scale[1] + WALL_MM + build.fat_mm
    top = y - np.float32(back + 5) + np.float32(0.0011) * x * x
    board = np.maximum(np.maximum(-top, top - 28), np.abs(x) - 195)
    shape = image.shape
    lay(image, -180, np.broadcast_to(board, shape), pixel)
    lay(image, -900, np.broadcast_to(board + 2.5, shape), pixel)


def _muscles(image: Floats, points: Points, muscle: Floats, pixel: float) -> None:
    """Paint paraspinal muscles, psoas and crura."""
    x, y, z = points
    pair = (np.abs(x), y, z)
    back = ellipsoid(pair, (33, 88, 0), (29, 21, 1000))
    lay(image, muscle, back, pixel)
    psoas: list[Node] = [(26, 50, 40, 4), (34, 54, -10, 13), (42, 52, -70, 19), (50, 46, -140, 22)]
    lay(image, muscle, tube(pair, psoas), pixel)
    crus: list[Node] = [(20, 44, 110, 5), (17, 34, 50, 6), (14, 36, 0, 4.5), (10, 40, -30, 2)]
    lay(image, muscle, tube(pair, crus), pixel)


def _skeleton(image: Floats, points: Points, cavity: Floats, grain: Floats, pixel: float) -> None:
    x, y, z = points
    side = np.abs(x)
    # Vertebrae 34 mm apart, with discs between.
    step = np.mod(z + 500, 34) - 17
    disc = np.abs(step) - 12.5
    round_ = ellipsoid(points, (0, 55, 0), (23, 18, 1000))
    round_ = np.maximum(round_, -ellipsoid(points, (0, 78, 0), (11, 9.5, 1000)))
    lay(image, 85, round_ + 1, pixel)
    bone = np.maximum(round_, disc)
    lay(image, 480, bone, pixel)
    lay(image, 190 + 45 * grain, bone + 2.2, pixel)
    canal = ellipsoid(points, (0, 78, 0), (10, 8.5, 1000))
    arch = np.maximum(np.abs(canal - 3.0) - 2.8, 74 - y)
    process = tube((side, y, step), [(10, 76, 2, 4.5), (36, 84, 2, 3.5)])
    spine = tube((side, y, step), [(0, 90, 0, 3.4), (0, 112, -6, 3.0)])
    spine = np.maximum(np.minimum(np.minimum(arch, process), spine), np.abs(step) - 11)
    lay(image, 520, spine, pixel)
    lay(image, 260, spine + 2.2, pixel)
    lay(image, 25, canal, pixel)
    # Ribs run down and forward in the wall; in front of their ends there is cartilage.
    along = np.mod(z - 0.55 * y + 500, 27) - 13.5
    rib = (np.hypot(along / 6.5, (cavity - 6.5) / 4.2) - 1) * 4.2
    rib = np.maximum(rib, -28 + 0.3 * (y + 60) - z)
    rib = np.maximum(rib, 24 - side)
    front = np.clip((-45 - y) / 15, 0, 1)
    lay(image, 650 - 520 * front, rib, pixel)
    lay(image, 230 - 110 * front, rib + 1.7, pixel)


def _chest(
    image: Floats,
    points: Points,
    cavity: Floats,
    enhanced: float,
    field: Callable[[float], Floats],
    pixel: float,
) -> None:
    """Paint lungs and heart above the diaphragm."""
    _, y, z = points
    heart = ellipsoid(points, (22, -40, 122), (58, 42, 38))
    dome = np.minimum(
        ellipsoid(points, (-66, -4, 26), (73, 88, 79)),
        ellipsoid(points, (66, -2, 22), (72, 88, 74)),
    )
    middle = ellipsoid(points, (6, 50, 0), (40, 52, 1000))
    fat = heart - 7
    lung = np.maximum(cavity + 2.5, 46 - 0.42 * y - z)
    for solid in (dome, middle, fat, ellipsoid(points, (-18, -8, 110), (22, 22, 40))):
        lung = np.maximum(lung, 2.5 - solid)
    vessels = np.clip(field(4) - 1.25, 0, 1.5)
    above = np.maximum(dome, -(z - 60))
    lay(image, 55, np.maximum(lung - 3, -above - 30), pixel)  # diaphragm and pleura
    lay(image, -845 + 25 * field(9) + 520 * vessels, lung, pixel)
    lay(image, -95, np.maximum(fat, 1 - dome), pixel)
    lay(image, 45 + 75 * enhanced, np.maximum(heart, 4 - dome), pixel)


def _bowel(
    image: Floats,
    points: Points,
    cavity: Floats,
    enhanced: float,
    pixel: float,
    rng: np.random.Generator,
) -> None:
    """Paint loops of small bowel, packed with fat between, and the colon around them."""
    x, y, z = points
    fold = wavy_field((x, y, z), 46, rng)
    loops = (0.42 - np.abs(fold)) * 11
    room = np.maximum(cavity + 9, np.maximum(y - 14, z + 12 - 0.3 * (y + 60)))
    room = np.maximum(room, np.abs(x) - 92)
    loops = np.maximum(loops, room)
    wall, content = 45 + 45 * enhanced, np.where(fold > 0, np.float32(40), np.float32(18))
    lay(image, wall, loops, pixel)
    lay(image, content, loops + 2.2, pixel)
    lay(image, -930, np.maximum(loops + 4, 20 * (1.15 - fold)), pixel)
    stool = wavy_field((x + 40, y, z), 15, rng)
    course: list[list[Node]] = [
        [(-98, 8, -150, 24), (-100, 6, -30, 20), (-88, -18, -14, 17)],
        [(-88, -18, -14, 17), (-50, -62, -34, 15), (0, -70, -38, 15), (60, -60, -20, 14)],
        [(60, -60, -20, 14), (98, -20, 14, 14), (106, 14, 2, 13), (104, 18, -150, 14)],
    ]
    for nodes in course:
        haustra = tube(points, nodes) + 1.8 * np.sin(z / 6 + x / 9)
        colon = np.maximum(haustra, cavity + 5)
        lay(image, wall, colon, pixel)
        lay(image, 5 + 45 * stool, colon + 2.5, pixel)
        gas = np.maximum(colon + 4, 6 * (0.35 - stool))
        lay(image, -880, gas, pixel)
