"""Mean shapes of the chambers: three star-shaped surfaces that meet given volumes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from datamodules.phantom.anatomy import Anatomy
from datamodules.phantom.surface import ANGLES, Array, Floats, StarSurface, angle_from

SEPTUM = np.pi + 0.25  # direction of the septum in the image, x to the right and y down


@dataclass(frozen=True)
class Habit:
    """The traits of a patient's heart that do not change between the frames."""

    septum: float
    ripple: Array  # (N_ANGLES,), relative waviness of the left ventricle
    ripple_rv: Array  # (N_ANGLES,), the same of the right one
    segment: float  # direction of the thickened or thinned segment
    segment_width: float
    segment_change: float  # relative change of the wall's thickness there, at ED
    segment_level: float  # where along the axis it is strongest, 0 base to 1 apex
    flattening: float  # relative inward shift of the septum
    rv_reach: float  # where the right ventricle ends, as a share of the left one
    rv_aspect: float  # height to width of the right ventricle's outline
    axis: Array  # (2,), in-plane drift of the axis from base to apex, mm


@dataclass(frozen=True)
class Heart:
    """Surfaces of one frame at given levels.

    Args:
        endo: Left endocardium; what is inside is left cavity, papillary muscles included.
        epi: Left epicardium; what is between it and ``endo`` is left myocardium.
        right: Right endocardium; what is inside it and outside ``epi`` is right cavity.
    """

    endo: StarSurface
    epi: StarSurface
    right: StarSurface

    def shifted(self, offset: Array) -> Heart:
        """Return the heart moved by ``offset`` ``(Z, 2)``, mm."""
        return Heart(*(s.shifted(offset) for s in (self.endo, self.epi, self.right)))


def draw_habit(anatomy: Anatomy, rng: np.random.Generator) -> Habit:
    """Draw the traits of a patient; the group decides on segments and on the septum."""
    septum = SEPTUM + rng.normal(0, 0.12)

    def ripple(*sizes: float) -> Array:
        return sum(
            size * rng.normal() * np.cos(k * (ANGLES - rng.uniform(0, 2 * np.pi)))
            for k, size in enumerate(sizes, start=2)
        )

    left, right = ripple(0.04, 0.02, 0.01), ripple(0.0, 0.035, 0.02)
    segment, change, width = septum, 0.05, 1.2
    if anatomy.group == "HCM":
        segment = septum + rng.normal(0.3, 0.3)
        change, width = rng.uniform(0.45, 0.75), rng.uniform(0.8, 1.2)
    elif anatomy.group == "MINF":
        segment = septum + rng.choice((0.9, np.pi, -2.2)) + rng.normal(0, 0.3)
        change, width = -rng.uniform(0.35, 0.5), rng.uniform(0.7, 1.1)
    flat = 0.0
    if anatomy.group == "RV":
        flat = rng.uniform(0.06, 0.13)
    return Habit(
        septum=float(septum),
        ripple=left,
        ripple_rv=right,
        segment=float(segment),
        segment_width=float(width),
        segment_change=float(change),
        segment_level=float(rng.uniform(0.25, 0.6)),
        flattening=float(flat),
        rv_reach=float(rng.uniform(0.78, 0.9)),
        rv_aspect=float(rng.uniform(1.05, 1.22)),
        axis=rng.normal(0, 3, 2),
    )


def _bullet(u: Array) -> Array:
    """Profile of an ellipsoid blunt at the base: 1 at u = 0, 0 at u = 1, then negative."""
    inside = np.sqrt(np.clip(1 - np.clip(u, 0, 1) ** 2.3, 0, 1))
    return np.where(u < 1, inside, -3 * (u - 1))


class LeftShape:
    """Left ventricle of one frame; ``radius`` and ``wall`` are what the volumes decide.

    Args:
        habit: Traits of the patient.
        valve: Level of the valve plane, mm.
        apex: Level of the epicardial apex, mm; it stays where it is over the cycle.
        change: Relative change of the wall's thickness at the patient's segment.
        bulge: Relative outward shift of the segment, of a wall that does not contract.
    """

    def __init__(
        self, habit: Habit, *, valve: float, apex: float, change: float, bulge: float
    ) -> None:
        self.habit, self.valve, self.apex = habit, valve, apex
        self.change, self.bulge = change, bulge
        self.radius = self.wall = 0.0

    def radii(self, z: Array) -> tuple[Array, Array]:
        """Return the endocardial and epicardial radius ``(Z, N_ANGLES)`` at levels ``z``, mm."""
        habit, wall = self.habit, self.wall
        depth = np.maximum(z - self.valve, 0)[:, None]
        span = self.apex - self.valve
        inner = self.radius * _bullet(depth / (span - 0.7 * wall))
        outer = (self.radius + wall) * _bullet(depth / span)
        thickness = np.maximum(outer - np.maximum(inner, 0), 0)
        turn = angle_from(habit.segment)
        level = np.exp(-(((depth / span - habit.segment_level) / 0.35) ** 2))
        at_segment = np.exp(-0.5 * (turn / habit.segment_width) ** 2) * level
        flat = habit.flattening * np.exp(-0.5 * (angle_from(habit.septum) / 0.6) ** 2)
        form = 1 + habit.ripple - flat
        extra = 0.5 * self.change * thickness * at_segment
        endo = inner * np.where(inner > 0, form + self.bulge * at_segment, 1) - extra
        epi = outer * np.where(outer > 0, form + self.bulge * at_segment, 1) + extra
        return endo, np.where(epi > 0, np.maximum(epi, endo + 2.5), epi)

    def volumes(self) -> tuple[float, float]:
        """Return the volumes of the cavity and of the wall, mL."""
        z = self.valve + (np.arange(48) + 0.5) / 48 * (self.apex - self.valve)
        endo, epi = (StarSurface(np.zeros((48, 2)), r).area().sum() for r in self.radii(z))
        step = (self.apex - self.valve) / 48 / 1000
        return float(endo * step), float((epi - endo) * step)

    def fit_cavity(self, volume: float) -> None:
        """Set the radius so that the cavity has ``volume`` mL."""

        def miss(radius: float) -> float:
            self.radius = radius
            return self.volumes()[0] - volume

        self.radius = brentq(miss, 3.0, 80.0, xtol=1e-4)

    def fit(self, *, cavity: float, muscle: float) -> None:
        """Set radius and wall so that cavity and wall have the given volumes, mL."""

        def miss(wall: float) -> float:
            self.wall = wall
            self.fit_cavity(cavity)
            return self.volumes()[1] - muscle

        self.wall = brentq(miss, 2.0, 40.0, xtol=1e-3)
        self.fit_cavity(cavity)


def _right(
    habit: Habit, epi: Array, z: Array, *, valve: float, apex: float, scale: float
) -> StarSurface:
    """Return the right endocardium for a size ``scale``; its centre is relative to the left's.

    The outline is an ellipse that overlaps the left epicardium: its far end stands off the
    epicardium by the width of the crescent, which shrinks to nothing at the reach.
    """
    v = np.maximum(z - valve, 0) / (habit.rv_reach * (apex - valve))
    left = np.clip(1 - v**1.8, 0, 1)
    width = 36 * scale * np.where(v < 1, left**0.75, -0.6 * (v - 1))
    half = 36 * np.sqrt(scale) * np.where(v < 1, 0.12 + 0.88 * left**0.55, 0.12)
    turn = angle_from(habit.septum)
    outline = 1 / np.sqrt(np.cos(turn) ** 2 + (np.sin(turn) / habit.rv_aspect) ** 2)
    # The anterior corner, towards the outflow tract, is drawn out; most of all at the base.
    corner = np.exp(-0.5 * (angle_from(habit.septum + 1.25) / 0.45) ** 2)
    outline = outline * (1 + habit.ripple_rv + 0.14 * corner)
    radius = half[:, None] * outline * np.where(v < 1, 1.0, 1 - 8 * (v - 1))[:, None]
    at_septum = round(habit.septum / (2 * np.pi) * len(ANGLES)) % len(ANGLES)
    standoff = epi[:, at_septum]
    far = np.maximum(standoff, 0) + width - half
    direction = np.array([np.cos(habit.septum), np.sin(habit.septum)])
    return StarSurface(far[:, None] * direction, radius)


def _fit_right(left: LeftShape, volume: float) -> float:
    """Return the scale at which the right cavity has ``volume`` mL."""
    levels, step = 16, 2.5
    z = left.valve + (np.arange(levels) + 0.5) / levels * (left.apex - left.valve)
    epi = left.radii(z)[1]
    side = np.arange(-150, 80, step, dtype=np.float32)
    outer = StarSurface(np.zeros((levels, 2)), epi)
    grid = np.arange(-110, 110, step, dtype=np.float32)
    free = outer.signed_distance(side, grid) > 0
    cell = step * step * (left.apex - left.valve) / levels / 1000

    def miss(scale: float) -> float:
        right = _right(left.habit, epi, z, valve=left.valve, apex=left.apex, scale=scale)
        inside: Floats = np.clip(0.5 - right.signed_distance(side, grid) / step, 0, 1)
        return float(inside[free].sum()) * cell - volume

    return brentq(miss, 0.15, 3.0, xtol=2e-3)


class HeartModel:
    """The heart of a patient at ED and ES; call it with levels to get the surfaces there.

    Both frames meet the patient's cavity volumes, and the wall has the same volume in both.

    Args:
        anatomy: The patient.
        rng: Source of the traits.
    """

    def __init__(self, anatomy: Anatomy, rng: np.random.Generator) -> None:
        self.anatomy = anatomy
        self.habit = habit = draw_habit(anatomy, rng)
        self.apex = anatomy.length + 0.7 * anatomy.wall
        ed = LeftShape(habit, valve=0.0, apex=self.apex, change=habit.segment_change, bulge=0.0)
        ed.wall = anatomy.wall
        ed.fit_cavity(anatomy.lv_volume["ED"])
        muscle = ed.volumes()[1]
        infarct = anatomy.group == "MINF"
        es = LeftShape(
            habit,
            valve=anatomy.valve["ES"],
            apex=self.apex,
            change=habit.segment_change * (1.25 if infarct else 0.7),
            bulge=0.12 if infarct else 0.0,
        )
        es.fit(cavity=anatomy.lv_volume["ES"], muscle=muscle)
        self.left = {"ED": ed, "ES": es}
        self.scale = {f: _fit_right(self.left[f], anatomy.rv_volume[f]) for f in self.left}

    def __call__(self, frame: str, z: Array) -> Heart:
        """Return the surfaces of ``frame`` at levels ``z`` ``(Z,)``, centred near (0, 0)."""
        left = self.left[frame]
        endo, epi = left.radii(z)
        drift = (np.clip(z, 0, self.apex) / self.apex - 0.4)[:, None] * self.habit.axis
        right = _right(
            self.habit, epi, z, valve=left.valve, apex=self.apex, scale=self.scale[frame]
        )
        return Heart(StarSurface(drift, endo), StarSurface(drift, epi), right.shifted(drift))
