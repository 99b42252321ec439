"""What differs between patients: diagnosis, volumes, wall, body size, slice stack."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datamodules.phantom.settings import CardiacPhantom

FRAMES = ("ED", "ES")


@dataclass(frozen=True)
class Spread:
    """A normal distribution cut off at ``low`` and ``high``."""

    mean: float
    sd: float
    low: float
    high: float

    def draw(self, rng: np.random.Generator) -> float:
        """Draw a value by rejection."""
        while True:
            value = float(rng.normal(self.mean, self.sd))
            if self.low <= value <= self.high:
                return value


@dataclass(frozen=True)
class Group:
    """Ranges of one diagnostic group (volumes mL, wall mm, ejection fractions as shares).

    Volumes and walls follow Hudsmith et al. 2005, Kawel-Boehm et al. 2015 and the criteria by
    which ACDC assigned its groups (Bernard et al., IEEE TMI 37(11), 2018).
    """

    lv_edv: Spread
    lv_ef: Spread
    wall: Spread
    rv_edv: Spread
    rv_ef: Spread
    shortening: Spread


GROUPS: dict[str, Group] = {
    "NOR": Group(
        Spread(145, 22, 105, 190),
        Spread(0.63, 0.04, 0.56, 0.72),
        Spread(7.8, 0.8, 6.5, 9.5),
        Spread(158, 22, 115, 205),
        Spread(0.57, 0.04, 0.50, 0.66),
        Spread(13, 2, 9, 17),
    ),
    "MINF": Group(
        Spread(195, 30, 140, 260),
        Spread(0.31, 0.05, 0.20, 0.39),
        Spread(8.6, 0.8, 7.0, 10.0),
        Spread(145, 22, 105, 195),
        Spread(0.50, 0.05, 0.41, 0.60),
        Spread(8, 2, 4, 12),
    ),
    "DCM": Group(
        Spread(265, 32, 205, 340),
        Spread(0.24, 0.06, 0.12, 0.38),
        Spread(8.0, 0.8, 6.5, 9.5),
        Spread(180, 30, 120, 250),
        Spread(0.41, 0.06, 0.28, 0.55),
        Spread(6, 2, 2, 9),
    ),
    "HCM": Group(
        Spread(122, 17, 90, 160),
        Spread(0.69, 0.04, 0.60, 0.78),
        Spread(11.5, 1.0, 10.0, 13.5),
        Spread(140, 20, 100, 180),
        Spread(0.62, 0.04, 0.53, 0.70),
        Spread(12, 2, 8, 16),
    ),
    "RV": Group(
        Spread(125, 18, 90, 165),
        Spread(0.57, 0.04, 0.50, 0.66),
        Spread(7.6, 0.8, 6.3, 9.2),
        Spread(245, 25, 215, 300),
        Spread(0.37, 0.05, 0.25, 0.48),
        Spread(11, 2, 7, 15),
    ),
}


@dataclass(frozen=True)
class Anatomy:
    """One patient: the targets the geometry has to meet, and the stack it is imaged with.

    Positions along the long axis are in mm from the end-diastolic valve plane towards the apex;
    in-plane positions are in mm from the corner voxel's centre.

    Args:
        number: Patient number, from 1.
        group: One of :data:`GROUPS`.
        height: Body height, cm.
        weight: Body weight, kg.
        n_frames: Frames of the cine series.
        frames: 1-based frame number of ED and of ES.
        lv_volume: Volume of the left cavity at ED and at ES, mL.
        rv_volume: Volume of the right cavity at ED and at ES, mL.
        wall: Mean thickness of the left wall at the base at ED, mm.
        length: Length of the left cavity at ED, mm.
        valve: Position of the valve plane at ED and ES, mm (0 at ED).
        shape: Voxels of the image ``(X, Y, Z)``.
        spacing: Voxel size ``(x, y, z)``, mm.
        thickness: Thickness of a slice, mm, at most its distance.
        slices: Position of each slice's centre ``(Z,)``, mm.
        basal: Slice at the valve plane, the ambiguous one, at ED and at ES.
        header_fault: Whether the files have a unit-scale sform.
    """

    number: int
    group: str
    height: float
    weight: float
    n_frames: int
    frames: dict[str, int]
    lv_volume: dict[str, float]
    rv_volume: dict[str, float]
    wall: float
    length: float
    valve: dict[str, float]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    thickness: float
    slices: tuple[float, ...]
    basal: dict[str, int]
    header_fault: bool


def draw_anatomy(
    settings: CardiacPhantom,
    *,
    number: int,
    group: str,
    rng: np.random.Generator,
    header_fault: bool = False,
    late_ed: bool = False,
) -> Anatomy:
    """Draw a patient of ``group``; ``late_ed`` puts end-diastole at frame 4 instead of 1."""
    facts = GROUPS[group]
    lv_edv, rv_edv = facts.lv_edv.draw(rng), facts.rv_edv.draw(rng)
    lv_volume = {"ED": lv_edv, "ES": lv_edv * (1 - facts.lv_ef.draw(rng))}
    rv_volume = {"ED": rv_edv, "ES": rv_edv * (1 - facts.rv_ef.draw(rng))}
    wall = facts.wall.draw(rng)
    length = 86 * (lv_edv / 145) ** 0.22 * float(rng.uniform(0.96, 1.04))

    if rng.random() < settings.fine_fraction:
        distance = round(float(rng.uniform(*settings.fine_slices_mm)) * 2) / 2
        thickness = distance
    else:
        distance = float(rng.choice(settings.slice_distances_mm))
        thickness = distance * float(rng.uniform(0.6, 0.8))

    # In both frames one slice lies close to the valve plane: the one the annotator may or may not
    # outline. It alone shows atria and ventricles together, so the image tells which it is.
    steps = round(facts.shortening.draw(rng) / distance)
    at_ed, at_es = rng.uniform(-0.15, 0.15, 2)
    if steps == 0:
        at_ed, at_es = max(at_ed, at_es), min(at_ed, at_es)
    valve_es = distance * (steps + at_ed - at_es)
    above = int(rng.choice([0, 0, 1, 1]))
    below = int((length + 0.7 * wall) / distance - at_ed) + int(rng.choice([0, 0, 0, 1]))
    n_slices = above + 1 + below

    pixel = round(float(rng.uniform(*settings.pixel_mm)), 4)
    extent = np.sort(rng.uniform(*settings.field_of_view_mm, size=2))
    shape = (int(extent[0] / pixel), int(extent[1] / pixel), n_slices)
    ed = 4 if late_ed else 1
    es = ed + int(rng.integers(6, 12))
    height = round(float(rng.normal(171, 8)))
    weight = round(float(rng.normal(26, 3.5)) * (height / 100) ** 2)
    return Anatomy(
        number=number,
        group=group,
        height=float(np.clip(height, 150, 198)),
        weight=float(np.clip(weight, 45, 130)),
        n_frames=max(int(rng.integers(24, 36)), es + 4),
        frames={"ED": ed, "ES": es},
        lv_volume=lv_volume,
        rv_volume=rv_volume,
        wall=wall,
        length=length,
        valve={"ED": 0.0, "ES": float(valve_es)},
        shape=shape,
        spacing=(pixel, pixel, distance),
        thickness=thickness,
        slices=tuple(float(distance * (k - above + at_ed)) for k in range(n_slices)),
        basal={"ED": above, "ES": above + steps},
        header_fault=header_fault,
    )
