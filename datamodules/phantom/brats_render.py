"""The four images of a brain, from the mean shapes, with nothing of the annotator.

Signals are relative to white matter and chosen to look as spin-echo T1 before and after contrast,
T2 and FLAIR do: liquor dark on T1 and FLAIR and bright on T2, oedema bright on T2 and FLAIR and
dark on T1, necrosis dark on T1 and bright on T2, the rim bright after contrast.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from datamodules.phantom.brats_brain import CORTEX_MM, Brain
from datamodules.phantom.brats_settings import BrainPhantom
from datamodules.phantom.brats_tumour import Growth, Tumour
from datamodules.phantom.random_field import Floats
from datamodules.phantom.shapes import paint, smooth_field, wavy_field

MODALITIES = ("t1", "t1ce", "t2", "flair")
SIGNAL = {  # T1, T1 after contrast, T2, FLAIR
    "white": (1.00, 1.00, 1.00, 1.00),
    "grey": (0.76, 0.78, 1.42, 1.22),
    "nuclei": (0.84, 0.86, 1.22, 1.14),
    "stem": (0.95, 0.95, 1.12, 1.04),
    "liquor": (0.32, 0.33, 3.20, 0.22),
    "oedema": (0.68, 0.70, 2.15, 1.90),
    "necrosis": (0.48, 0.50, 2.90, 1.05),
    "non-enhancing": (0.60, 0.62, 2.60, 1.65),
    "enhancing": (0.68, 1.85, 1.75, 1.50),
    "vessel": (0.55, 1.90, 0.60, 0.60),
    "plexus": (0.60, 1.60, 2.20, 0.90),
}
Signal = Callable[[str], Floats]  # name of a tissue -> its signal (4, 1, 1, 1)
Field = Callable[[float], Floats]  # length in mm -> a smooth field


def render(
    points: tuple[Floats, Floats, Floats],
    brain: Brain,
    tumour: Tumour,
    growth: Growth,
    *,
    settings: BrainPhantom,
    rng: np.random.Generator,
) -> Floats:
    """Return the images ``(4, X, Y, Z)`` in the order of :data:`MODALITIES`, in stored units."""
    grid, spacing = brain.surface.shape, (settings.voxel_mm,) * 3
    voxel = 1.1 * settings.voxel_mm
    jitter = {name: np.exp(rng.normal(0, 0.05, 4)) for name in SIGNAL}

    def signal(name: str) -> Floats:
        values = np.array(SIGNAL[name]) * jitter[name]
        return values.astype(np.float32).reshape(4, 1, 1, 1)

    def field(length: float) -> Floats:
        return smooth_field(grid, spacing, length, rng)

    image = np.empty((4, *grid), dtype=np.float32)
    image[:] = signal("liquor")
    _cerebrum(image, brain, signal, voxel)
    folia = wavy_field(points, 9.0, rng)
    cerebellum = brain.cerebellum + 1.2
    paint(image, signal("grey") * (1 - 0.06 * folia), cerebellum, voxel)
    paint(image, signal("white"), cerebellum + 7 + 2.2 * folia, 2 * voxel)
    paint(image, signal("stem"), brain.stem + 0.6, voxel)
    paint(image, signal("liquor"), brain.ventricles, voxel)
    plexus = np.maximum(brain.ventricles + 2.5, 9 - 8 * np.abs(field(4)))
    paint(image, signal("plexus"), plexus, voxel)
    vessel = np.maximum(brain.pial - 1.6, 8 * (1.75 - field(4.0)))
    paint(image, signal("vessel"), np.maximum(vessel, brain.surface + 1), voxel)

    _tumour(image, tumour, growth, signal, field, voxel)
    image *= 1 + 0.012 * field(6)
    return _scan(image, brain.mask, settings, rng)


def _cerebrum(image: Floats, brain: Brain, signal: Signal, voxel: float) -> None:
    """Paint cortex, white matter and nuclei over liquor."""
    inside = brain.surface + 0.4
    grey = np.maximum(brain.sulcus_mm - brain.pial, inside)
    paint(image, signal("grey"), grey, voxel)
    white = np.maximum(brain.sulcus_mm + CORTEX_MM - brain.pial, inside)
    paint(image, signal("white"), white, 1.3 * voxel)
    paint(image, signal("nuclei"), brain.nuclei, 1.5 * voxel)


def _tumour(
    image: Floats, tumour: Tumour, growth: Growth, signal: Signal, field: Field, voxel: float
) -> None:
    """Paint the tumour over the brain."""
    grain = field(3.5)
    patches = field(7)
    paint(image, signal("oedema") * (1 + 0.05 * patches), tumour.whole, 1.6 * voxel)
    if tumour.satellite is not None:
        faint = 0.45 * image + 0.55 * signal("oedema")
        paint(image, faint, tumour.satellite, 3 * voxel)
    core = signal("non-enhancing" if growth.kind == "non-enhancing" else "necrosis")
    paint(image, core * (1 + 0.05 * patches + 0.04 * grain), tumour.core, voxel)
    if tumour.enhancing is not None:
        rim = np.maximum(tumour.enhancing, tumour.core)
        paint(image, signal("enhancing") * (1 + 0.08 * grain), rim, voxel)
    if tumour.cavity is not None:
        paint(image, signal("liquor"), tumour.cavity, voxel)


def _scan(
    image: Floats, mask: np.ndarray, settings: BrainPhantom, rng: np.random.Generator
) -> Floats:
    """Return what the scanner and the stripping of the skull make of the signals."""
    spacing = (settings.voxel_mm,) * 3
    for m, name in enumerate(MODALITIES):
        coil = smooth_field(mask.shape, spacing, 55, rng) * rng.uniform(*settings.bias_field)
        volume = gaussian_filter(image[m], 0.35) * np.exp(coil)
        thick = rng.random() < settings.thick_fraction
        if thick and name in ("t2", "flair"):
            volume = gaussian_filter1d(volume, 1.6 / settings.voxel_mm, axis=2)
        noise = gaussian_filter(rng.standard_normal(mask.shape, dtype=np.float32), 0.45)
        noise *= rng.uniform(*settings.noise) / noise.std()
        gain = np.exp(rng.uniform(np.log(150), np.log(900)))
        image[m] = np.where(mask, np.maximum((volume + noise) * gain, 1), 0)
    return image
