"""The thirteen organs of FLARE22 as mean shapes, none of which overlaps another.

Axes point to the patient's left, back and top, in mm; x = 0 is the midline, z = 0 the level of
the pancreas. The shapes are plausible, not exact: what counts is that they have about the right
size, place and neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.phantom.flare_settings import AbdomenPhantom
from datamodules.phantom.layers import Annotation, Box, Layer
from datamodules.phantom.random_field import Floats
from datamodules.phantom.shapes import (
    FAR,
    Node,
    Points,
    box_about,
    ellipsoid,
    smooth_union,
    tube,
)

GAP_MM = 1.0  # of fat between two organs that touch
REACH_MM = 26.0  # how far about its nominal extent an organ is looked for
TUBES = ("aorta", "postcava", "oesophagus")
# In the order in which they are painted: where two touch, the later one has the voxel. With the
# standard deviation of the annotated boundary, mm, and the label in FLARE22 and in FLARE21.
ORGANS: Mapping[str, tuple[float, int, int | None]] = {
    "liver": (1.2, 1, 1),
    "spleen": (1.1, 3, 3),
    "stomach": (1.8, 11, None),
    "duodenum": (2.0, 12, None),
    "right kidney": (1.0, 2, 2),
    "left kidney": (1.0, 13, 2),
    "pancreas": (1.8, 4, 4),
    "postcava": (1.2, 6, None),
    "aorta": (0.8, 5, None),
    "oesophagus": (1.2, 10, None),
    "gallbladder": (0.9, 9, None),
    "right adrenal": (1.0, 7, None),
    "left adrenal": (1.0, 8, None),
}


@dataclass(frozen=True)
class Organ:
    """An organ's level set, mm, negative inside, in the box where it may be."""

    distance: Floats
    box: Box


@dataclass(frozen=True)
class Frame:
    """Where things are on the grid.

    Args:
        axes: Voxel centres along each axis, mm, as an open mesh: to find boxes.
        points: The same places in the coordinates of the average patient, warped.
        cavity: Level set of the inside of the body wall.
    """

    axes: Points
    points: Points
    cavity: Floats

    def box(self, low: Sequence[float], high: Sequence[float]) -> Box:
        """Return the voxels from ``low`` to ``high``, mm, and :data:`REACH_MM` about them."""
        found = []
        for axis, first, last in zip(self.axes, low, high, strict=True):
            place = axis.ravel()
            begin, end = np.searchsorted(place, (first - REACH_MM, last + REACH_MM))
            begin = min(int(begin), len(place) - 1)
            found.append(slice(begin, max(int(end), begin + 1)))
        return found[0], found[1], found[2]

    def within(self, box: Box) -> Points:
        """Return the warped points of a box."""
        x, y, z = (p[box] for p in self.points)
        return x, y, z


def find_organs(frame: Frame, rng: np.random.Generator) -> dict[str, Organ]:
    """Return the organs in painting order, each cut back from those painted after it.

    Sizes and places vary from patient to patient; every patient has all of them.
    """
    organs: dict[str, Organ] = {}

    def add(
        name: str, solid: Callable[[Points], Floats], low: Sequence[float], high: Sequence[float]
    ) -> None:
        box = frame.box(low, high)
        wall = frame.cavity[box] + np.float32(4)
        organs[name] = Organ(np.maximum(solid(frame.within(box)), wall), box)

    def along(name: str, nodes: list[Node], size: float = 1.0) -> None:
        shift = rng.normal(0, 3, 3)
        moved: list[Node] = [
            (x + shift[0], y + shift[1], z + shift[2], r * size) for x, y, z, r in nodes
        ]
        low = [min(n[a] - n[3] for n in moved) for a in range(3)]
        high = [max(n[a] + n[3] for n in moved) for a in range(3)]
        add(name, lambda points: tube(points, moved), low, high)

    size = float(np.clip(rng.normal(1, 0.06), 0.85, 1.15))
    add("liver", lambda points: _liver(points, size), (-135, -95, -75), (95, 85, 115))
    spleen = [r * float(s) for r, s in zip((29, 46, 50), rng.normal(1, 0.07, 3), strict=True)]
    place = rng.normal((98, 28, 40), 4)
    add(
        "spleen",
        lambda points: ellipsoid(points, place.tolist(), spleen),
        [c - r for c, r in zip(place.tolist(), spleen, strict=True)],
        [c + r for c, r in zip(place.tolist(), spleen, strict=True)],
    )
    along("stomach", _STOMACH, float(rng.uniform(0.8, 1.1)))
    along("duodenum", _DUODENUM, float(rng.uniform(0.9, 1.1)))
    for name, side, level in (("right kidney", -1, -18), ("left kidney", 1, -4)):
        kidney = _Kidney(
            centre=(side * 61 + rng.normal(0, 3), 44 + rng.normal(0, 3), level + rng.normal(0, 7)),
            radii=(28 * float(rng.normal(1, 0.05)), 29, 54 * float(rng.normal(1, 0.06))),
            side=side,
        )
        low = [c - r for c, r in zip(kidney.centre, kidney.radii, strict=True)]
        high = [c + r for c, r in zip(kidney.centre, kidney.radii, strict=True)]
        add(name, kidney, low, high)
    along("pancreas", _PANCREAS, float(rng.uniform(0.95, 1.2)))
    along("postcava", _POSTCAVA, float(rng.uniform(0.85, 1.1)))
    along("aorta", _AORTA, float(rng.uniform(0.9, 1.25)))
    along("oesophagus", _OESOPHAGUS)
    along("gallbladder", _GALLBLADDER, float(rng.uniform(0.8, 1.2)))
    along("right adrenal", _RIGHT_ADRENAL)
    along("left adrenal", _LEFT_ADRENAL)
    ordered = {name: organs[name] for name in ORGANS}
    _carve(ordered)
    return ordered


def _carve(organs: dict[str, Organ]) -> None:
    """Cut each organ back, in place, from those that are painted later."""
    names = list(organs)
    for k, name in enumerate(names):
        organ = organs[name]
        for other in (organs[later] for later in names[k + 1 :]):
            shared = _overlap(organ.box, other.box)
            if shared is not None:
                mine, theirs = shared
                part = organ.distance[mine]
                np.maximum(part, np.float32(GAP_MM) - other.distance[theirs], out=part)


def _overlap(first: Box, second: Box) -> tuple[Box, Box] | None:
    """Return what two boxes share, in the indices of either."""
    mine, theirs = [], []
    for a, b in zip(first, second, strict=True):
        begin, end = max(a.start, b.start), min(a.stop, b.stop)
        if begin >= end:
            return None
        mine.append(slice(begin - a.start, end - a.start))
        theirs.append(slice(begin - b.start, end - b.start))
    return (mine[0], mine[1], mine[2]), (theirs[0], theirs[1], theirs[2])


def _liver(points: Points, size: float) -> Floats:
    right = ellipsoid(points, (-66, -4, 26), (70 * size, 84 * size, 76 * size))
    left = ellipsoid(points, (8, -50, 46), (66 * size, 30 * size, 27 * size))
    whole = smooth_union(right, left, 26)
    spine = ellipsoid(points, (10, 62, 20), (52, 52, 400))
    return -smooth_union(-whole, spine - 2, 12)


@dataclass(frozen=True)
class _Kidney:
    """A bean: an ellipsoid, upper pole towards the spine, without its sinus."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    side: int

    def __call__(self, points: Points) -> Floats:
        x, y, z = points
        lean = x + np.float32(0.14 * self.side) * (z - np.float32(self.centre[2]))
        bean = ellipsoid((lean, y, z), self.centre, self.radii)
        hilum = (self.centre[0] - self.side * 21, self.centre[1] - 5, self.centre[2])
        sinus = ellipsoid((lean, y, z), hilum, (17, 9, 20))
        return -smooth_union(-bean, sinus, 5)


_STOMACH: list[Node] = [
    (58, 10, 66, 22),
    (70, -12, 50, 31),
    (58, -40, 24, 26),
    (30, -56, 2, 20),
    (-4, -54, -6, 16),
    (-22, -44, -2, 11),
]
_DUODENUM: list[Node] = [
    (-26, -38, -2, 11),
    (-46, -24, -8, 12.5),
    (-56, -6, -20, 12.5),
    (-54, 0, -42, 12.5),
    (-36, 2, -58, 12),
    (-6, 0, -60, 11),
    (22, -4, -54, 11),
    (36, -14, -38, 10),
]
_PANCREAS: list[Node] = [
    (-34, -2, -36, 10),
    (-30, -4, -18, 15),
    (-16, -9, -2, 12),
    (6, -13, 6, 9.5),
    (32, -6, 14, 11),
    (58, 10, 24, 10.5),
    (78, 22, 34, 9),
]
_POSTCAVA: list[Node] = [
    (-15, 26, -150, 10),
    (-18, 25, -20, 11),
    (-21, 17, 30, 12),
    (-23, 6, 66, 12.5),
    (-20, -6, 96, 12),
]
_AORTA: list[Node] = [
    (22, 40, 150, 11.5),
    (16, 30, 70, 11),
    (8, 23, 0, 9.5),
    (3, 24, -150, 8.5),
]
_OESOPHAGUS: list[Node] = [
    (4, 18, 150, 8.5),
    (8, 12, 96, 8.5),
    (22, 8, 78, 8.5),
    (44, 8, 70, 9.5),
]
_GALLBLADDER: list[Node] = [(-46, -60, -22, 11), (-40, -44, -8, 13), (-32, -28, 8, 5)]
_RIGHT_ADRENAL: list[Node] = [(-44, 47, 28, 3.4), (-34, 33, 40, 5.2), (-29, 49, 27, 3.4)]
_LEFT_ADRENAL: list[Node] = [(48, 45, 22, 3.6), (37, 30, 34, 5.4), (30, 45, 20, 3.6)]


def annotate(
    organs: Mapping[str, Organ],
    *,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    settings: AbdomenPhantom,
    tube_slices: tuple[int, int] | None,
) -> Annotation:
    r"""Return the annotation of the organs that the release labels.

    The organs are painted one after the other, see :mod:`datamodules.phantom.layers`: with the
    probabilities :math:`q_k` of being inside the drawn boundary of organ k,
    :math:`P(k) = q_k \prod_{j > k} (1 - q_j)`, the product over those painted later. Both
    kidneys have one label in FLARE21; their probabilities add up.

    Args:
        organs: The organs.
        shape: Grid.
        spacing: Voxel size, mm.
        settings: Settings of release and annotator.
        tube_slices: First slice and one past the last on which the tubes are labelled, or None
            for all.
    """
    layers = []
    thirteen = settings.release == "2022"
    for name, (sigma, new, old) in ORGANS.items():
        label = new if thirteen else old
        if label is None:
            continue
        organ, sigma = organs[name], sigma * settings.sigma_scale
        level = organ.distance
        if name in TUBES and tube_slices is not None:
            levels = np.arange(organ.box[2].start, organ.box[2].stop)
            labelled = (levels >= tube_slices[0]) & (levels < tube_slices[1])
            level = np.where(labelled, level, np.float32(FAR))
        near = box_about(level, 8 * sigma)
        box = [
            slice(whole.start + part.start, whole.start + part.stop)
            for whole, part in zip(organ.box, near, strict=True)
        ]
        layers.append(Layer(label, level[near], (box[0], box[1], box[2]), sigma))
    length = settings.correlation_mm
    return Annotation(
        layers=layers,
        shape=shape,
        spacing=spacing,
        num_classes=14 if thirteen else 5,
        correlation_mm=(length, length, settings.correlation_z_mm),
        bias_share=settings.bias_share,
    )
