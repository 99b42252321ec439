"""The tumour: whole, core and enhancing part as mean shapes, and how they are annotated.

The core lies in the whole tumour; the enhancing rim is what of the core is nearer to its surface
than the rim is thick, and the rim is thin here and thick there, with gaps. Oedema runs along the
white matter: it avoids cortex and liquor, which makes its outline fingered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from datamodules.phantom.brats_brain import Brain, BrainShape, cerebrum
from datamodules.phantom.brats_settings import BrainPhantom
from datamodules.phantom.layers import Annotation, Layer
from datamodules.phantom.random_field import Floats
from datamodules.phantom.shapes import FAR, Points, box_about, ellipsoid, smooth_field

NECROSIS, OEDEMA, ENHANCING, CAVITY = 1, 2, 3, 4
CORTEX_FULL = 4.2  # nearer than this to liquor, mm, it is cortex that oedema has to cross
Kind = Literal["ring", "solid", "non-enhancing"]


@dataclass(frozen=True)
class Growth:
    """What kind of tumour a patient has, and where.

    Args:
        kind: With a necrotic core and a rim, enhancing throughout, or not enhancing at all.
        centre: Middle of the core, mm.
        radii: Radius of core and of whole tumour as balls of the same volume, mm.
        stretch: Semi-axes relative to the radius.
        rim_mm: Mean thickness of the enhancing rim.
        satellite: Middle of the patch of faint oedema, mm, or None.
        cavity: Whether part of the core was resected.
    """

    kind: Kind
    centre: tuple[float, float, float]
    radii: tuple[float, float]
    stretch: tuple[float, float, float]
    rim_mm: float
    satellite: tuple[float, float, float] | None
    cavity: bool

    @classmethod
    def draw(
        cls,
        kind: Kind,
        shape: BrainShape,
        rng: np.random.Generator,
        *,
        satellite: bool,
        cavity: bool,
    ) -> Growth:
        """Draw a tumour of ``kind`` that lies in one hemisphere of the brain."""
        core = float(np.exp(rng.normal(np.log(17.5), 0.25)).clip(9, 28))
        if kind == "solid":
            core = min(0.75 * core, 14.0)
        if kind == "non-enhancing":
            whole = core + float(rng.uniform(3, 7))
        else:
            whole = core + float(rng.uniform(6, 13))
        stretch = np.exp(rng.normal(0, 0.14, 3))
        stretch /= stretch.prod() ** (1 / 3)
        # Candidates all at once: the draws are the same number, whichever is taken.
        low, high = (10, -46, -14), (50, 50, 44)
        places = rng.uniform(low, high, (400, 3)) * (rng.choice((-1, 1)), 1, 1)
        inside = places[_depths(places, shape) > 0.85 * core + 3]
        first = inside[0] if len(inside) else np.array([30.0 * np.sign(places[0, 0]), 0, 14])
        others = rng.uniform(low, high, (400, 3)) * (np.sign(first[0]), 1, 1)
        far = np.linalg.norm(others - first, axis=1) > whole + 14
        apart = others[far & (_depths(others, shape) > 11)]
        return cls(
            kind=kind,
            centre=_triple(first),
            radii=(core, whole),
            stretch=_triple(stretch),
            rim_mm=float(rng.uniform(3.5, 6.0)),
            satellite=_triple(apart[0]) if satellite and len(apart) else None,
            cavity=cavity,
        )


def _depths(places: np.ndarray, shape: BrainShape) -> np.ndarray:
    """Return how deep places ``(n, 3)`` lie in the cerebrum ``(n,)``, mm."""
    x, y, z = places.astype(np.float32).T[..., None, None]
    return -cerebrum(shape.scaled((x, y, z)))[:, 0, 0]


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = values.tolist()
    return float(x), float(y), float(z)


@dataclass(frozen=True)
class Tumour:
    """Level sets of the tumour on the grid, mm, negative inside.

    Args:
        whole: Whole tumour; what of it is outside the core is oedema.
        core: Core; what of it does not enhance is necrosis or non-enhancing tumour.
        enhancing: Enhancing part, where it is in the core; None if nothing enhances.
        satellite: Patch of faint oedema, or None.
        cavity: Resection cavity, or None.
    """

    whole: Floats
    core: Floats
    enhancing: Floats | None
    satellite: Floats | None
    cavity: Floats | None


def displaced(points: Points, growth: Growth) -> Points:
    """Return where the tissue at ``points`` was before the tumour pushed it away.

    The push is greatest at the tumour's edge, and nothing is left of it at the skull.
    """
    x, y, z = points
    moved = [p - np.float32(c) for p, c in zip(points, growth.centre, strict=True)]
    reach = np.float32(0.5 * sum(growth.radii))
    square = sum(m * m for m in moved) / (2 * reach * reach)
    free = np.clip(-ellipsoid((x, y, z), (0, 0, 5), (66, 84, 60)) / 18, 0, 1)
    push = np.float32(0.42) * np.exp(-square) * free
    x, y, z = (p - push * m for p, m in zip(points, moved, strict=True))
    return x, y, z


def find_tumour(
    points: Points,
    growth: Growth,
    brain: Brain,
    *,
    spacing: tuple[float, float, float],
    rng: np.random.Generator,
) -> Tumour:
    """Return where the tumour is."""
    grid = brain.surface.shape
    core_mm, whole_mm = growth.radii

    def field(length: float) -> Floats:
        return smooth_field(grid, spacing, length, rng)

    lump, grain, spread, rim = field(13), field(5), field(16), field(9)
    inner, patch = field(10), field(8)
    radii = [core_mm * s for s in growth.stretch]
    ball = ellipsoid(points, growth.centre, radii)
    core = ball + 0.16 * core_mm * lump + 0.9 * grain
    core = np.maximum(core, brain.surface + 2.0)
    liquor = brain.ventricles

    # Oedema follows the white matter: cortex and liquor hold it back.
    cortex = np.clip((CORTEX_FULL - brain.pial) / 2.0, 0, 1)
    wide = ellipsoid(points, growth.centre, [whole_mm * s for s in growth.stretch])
    oedema = wide + 0.24 * whole_mm * spread + 1.2 * grain
    oedema = oedema + (5 + 0.12 * whole_mm) * cortex
    oedema = np.maximum(np.maximum(oedema, 1.0 - liquor), 1.0 - brain.pial)
    whole = np.minimum(oedema, core - 1.0)

    enhancing: Floats | None = None
    if growth.kind == "ring":
        enhancing = -core - growth.rim_mm * (1 + 0.45 * rim) + 1.2 * inner
    elif growth.kind == "solid":
        enhancing = np.full(grid, -FAR, dtype=np.float32)
    satellite = None
    if growth.satellite is not None:
        satellite = ellipsoid(points, growth.satellite, (8.5, 9.5, 7.5)) + 1.6 * patch + 3 * cortex
        satellite = np.maximum(satellite, 1.0 - liquor)
    cavity = None
    if growth.cavity:
        side = -0.25 * core_mm * np.sign(growth.centre[0])
        middle = [c + d for c, d in zip(growth.centre, (-side, 0.1 * core_mm, 0.0), strict=True)]
        cavity = ellipsoid(points, middle, [0.62 * r for r in radii]) + 0.08 * core_mm * inner
    return Tumour(whole, core, enhancing, satellite, cavity)


def annotate(tumour: Tumour, mask: np.ndarray, settings: BrainPhantom) -> Annotation:
    r"""Return the annotation of the ``tumour``; outside ``mask`` nothing is ever outlined.

    Whole tumour, core over it, enhancing part over the core alone. With the probabilities
    :math:`q_W, q_T, q_E` of being inside the drawn boundaries this gives

    .. math::
        P(\mathrm{oedema}) = (1 - q_T) q_W, \quad P(\mathrm{necrosis}) = q_T (1 - q_E), \quad
        P(\mathrm{enhancing}) = q_T q_E, \quad P(\mathrm{background}) = (1 - q_T)(1 - q_W),

    see :mod:`datamodules.phantom.layers`; a satellite of oedema, outlined with probability
    :math:`\pi`, and a cavity, painted last, enter as further layers.
    """
    whole, core, enhancing = settings.sigma_mm

    def layer(
        label: int,
        level: Floats,
        sigma: float,
        over: int | None = None,
        chance: float = 1.0,
    ) -> Layer:
        level = np.where(mask, level, np.float32(FAR)).astype(np.float32)
        box = box_about(level, 8 * sigma)
        return Layer(label, level[box], box, sigma, chance, over)

    layers = [layer(OEDEMA, tumour.whole, whole)]
    if tumour.satellite is not None:
        pi = settings.satellite_pi
        layers.append(layer(OEDEMA, tumour.satellite, whole, chance=pi))
    layers.append(layer(NECROSIS, tumour.core, core))
    if tumour.enhancing is not None:
        near = np.where(tumour.core < 8 * core, tumour.enhancing, np.float32(FAR))
        layers.append(layer(ENHANCING, near, enhancing, over=NECROSIS))
    if tumour.cavity is not None:
        layers.append(layer(CAVITY, tumour.cavity, enhancing))
    return Annotation(
        layers=layers,
        shape=settings.shape,
        spacing=(settings.voxel_mm,) * 3,
        num_classes=5 if settings.release == "2024" else 4,
        correlation_mm=(settings.correlation_mm,) * 3,
        bias_share=settings.bias_share,
    )
