"""One case of the glioma phantom: the four images, and the annotation of the tumour."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from datamodules.phantom.brats_brain import BrainShape, find_brain
from datamodules.phantom.brats_render import render
from datamodules.phantom.brats_settings import BrainPhantom
from datamodules.phantom.brats_tumour import (
    Growth,
    Kind,
    annotate,
    displaced,
    find_tumour,
)
from datamodules.phantom.layers import Annotation
from datamodules.phantom.random_field import Floats, stream
from datamodules.phantom.shapes import grid_points


@dataclass(frozen=True)
class BrainCase:
    """A case.

    Args:
        growth: What kind of tumour, and where.
        images: T1, T1 after contrast, T2 and FLAIR ``(4, X, Y, Z)``; 0 outside the brain.
        annotation: What draws the labels.
    """

    growth: Growth
    images: Floats
    annotation: Annotation


def make_case(
    settings: BrainPhantom,
    *,
    number: int,
    kind: Kind,
    satellite: bool = False,
    cavity: bool = False,
    visit: int = 0,
    seed: int = 0,
) -> BrainCase:
    """Draw a case; it depends on the arguments alone, not on other patients.

    A later ``visit`` shows the same brain and the same tumour, grown.
    """
    spacing = (settings.voxel_mm,) * 3
    rng = stream(seed, number, "anatomy")
    shape = BrainShape.draw(rng)
    growth = Growth.draw(kind, shape, rng, satellite=satellite, cavity=cavity)
    core, whole = (radius * (1 + 0.15 * visit) for radius in growth.radii)
    growth = replace(growth, radii=(core, whole))
    points = grid_points(settings.shape, spacing)
    brain = find_brain(
        displaced(points, growth), shape, spacing=spacing, rng=stream(seed, number, "brain")
    )
    tumour = find_tumour(points, growth, brain, spacing=spacing, rng=stream(seed, number, "tumour"))
    images = render(
        points,
        brain,
        tumour,
        growth,
        settings=settings,
        rng=stream(seed, number, f"images {visit}"),
    )
    images = np.clip(np.rint(images), 0, np.iinfo(np.int16).max)
    return BrainCase(growth, images, annotate(tumour, brain.mask, settings))
