"""What surrounds the heart: chest wall, lung, liver, stomach, aorta. Plausible, not exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datamodules.phantom.random_field import Floats, gaussian_field
from datamodules.phantom.surface import coverage


@dataclass(frozen=True)
class Tissue:
    """Signal of each tissue relative to blood, as balanced steady-state imaging gives it."""

    blood: float
    myocardium: float
    fat: float
    lung: float
    liver: float
    muscle: float
    air: float = 0.01

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Tissue:
        """Draw the signals of a patient; blood is 3 to 4 times as bright as myocardium."""
        return cls(
            blood=1.0,
            myocardium=float(rng.uniform(0.25, 0.33)),
            fat=float(rng.uniform(0.72, 0.98)),
            lung=float(rng.uniform(0.05, 0.11)),
            liver=float(rng.uniform(0.30, 0.44)),
            muscle=float(rng.uniform(0.20, 0.28)),
        )


def paint(image: Floats, signal: float | Floats, distance: Floats, width: float) -> None:
    """Lay a tissue over ``image`` in place, with its share of each pixel ``width`` mm wide."""
    image += coverage(distance, width) * (signal - image)


def thorax(
    x: Floats,
    y: Floats,
    slices: Floats,
    *,
    spacing: tuple[float, float, float],
    tissue: Tissue,
    rng: np.random.Generator,
) -> Floats:
    """Return the signal without the heart ``(X, Y, Z)``.

    Args:
        x: Positions along the first axis relative to the heart, mm, from the patient's right to
            the left as the image shows them.
        y: Positions along the second axis, mm, from front to back.
        slices: Levels of the slices, mm, from base to apex.
        spacing: Voxel size, mm.
        tissue: Signals.
        rng: Source of sizes, outlines and textures.
    """
    shape, pixel = (len(x), len(y), len(slices)), spacing[0]

    def field(in_plane: float, through: float = 40.0) -> Floats:
        return gaussian_field(shape, spacing, (in_plane, in_plane, through), rng)

    level = (slices / 100).astype(np.float32)  # about 0 at the base, 1 at the apex
    u = x[:, None, None] + 4 * field(22)
    v = y[None, :, None] + 4 * field(22)
    grain, vessels = field(3.0, 6.0), field(3.2, 8.0)

    image = tissue.lung * (1 + 0.25 * grain) + 0.22 * np.clip(vessels - 1.2, 0, 1.2)

    chest_x, chest_y = rng.uniform(15, 35), rng.uniform(70, 80)
    half_x, half_y = rng.uniform(112, 126), rng.uniform(124, 136)
    chest = (np.hypot((u - chest_x) / half_x, (v - chest_y) / half_y) - 1) * 120

    # Fat in front of the right ventricle, between pericardium and chest wall.
    pad = np.hypot(u + rng.uniform(20, 40), v + rng.uniform(25, 45)) - rng.uniform(30, 46)
    pad = pad + 7 * field(14)
    paint(image, tissue.fat * (1 + 0.06 * grain), pad, 2 * pixel)

    # Dome of the diaphragm: liver on the left of the picture, stomach and spleen on the right.
    dome_x, dome = rng.uniform(-45, -20), rng.uniform(36, 48)
    floor = dome + (u - dome_x) ** 2 * rng.uniform(0.004, 0.007) - 16 * (level - 0.4)
    liver = tissue.liver * (1 + 0.05 * grain) + 0.4 * np.clip(vessels - 1.0, 0, 1)
    paint(image, tissue.fat * 0.7, floor - v - 2.0, 2 * pixel)
    paint(image, liver, floor - v, pixel)
    stomach = np.hypot(u - rng.uniform(30, 50), (v - rng.uniform(78, 92)) * 1.2) - rng.uniform(
        18, 28
    )
    paint(image, tissue.muscle * 1.1, stomach, pixel)
    paint(image, rng.uniform(0.15, 0.65) * (1 + 0.1 * grain), stomach + 4, pixel)

    aorta_x, aorta_y = rng.uniform(62, 74), rng.uniform(44, 58)
    aorta = np.hypot(u - aorta_x - 6 * level, v - aorta_y) - rng.uniform(9.5, 12.5)
    paint(image, tissue.fat * 0.6, aorta - 3.5, 2 * pixel)
    paint(image, tissue.myocardium, aorta - 1.2, pixel)
    paint(image, tissue.blood * rng.uniform(0.85, 1.0), aorta, pixel)

    wall, skin = rng.uniform(10, 16), rng.uniform(8, 24)
    ribs = np.sin(u / rng.uniform(7, 9) + rng.uniform(0, 6)) + 0.4 * field(8)
    muscle = tissue.muscle * (1 + 0.12 * grain) + 0.25 * np.clip(ribs - 0.6, 0, 0.8)
    paint(image, tissue.fat * 0.8, 1.0 - chest, 2 * pixel)
    paint(image, muscle, 3.0 - chest, pixel)
    paint(image, tissue.fat * (1 + 0.05 * grain), wall - chest, pixel)
    paint(image, tissue.air, wall + skin - chest, pixel)
    return np.maximum(image, 0).astype(np.float32)
