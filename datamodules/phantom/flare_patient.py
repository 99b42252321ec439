"""One patient of the abdominal phantom: the CT, and the annotation of the organs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datamodules.phantom.flare_body import Build, draw_body, inner_cavity
from datamodules.phantom.flare_organs import Frame, Organ, annotate, find_organs
from datamodules.phantom.flare_render import render
from datamodules.phantom.flare_settings import AbdomenPhantom
from datamodules.phantom.layers import Annotation
from datamodules.phantom.random_field import Floats, stream
from datamodules.phantom.shapes import Points, grid_points, smooth_field


@dataclass(frozen=True)
class AbdomenPatient:
    """A patient, x to the left, y to the back and z to the top.

    Args:
        build: The patient's build.
        organs: Mean shapes.
        image: CT ``(X, Y, Z)``, HU.
        annotation: What draws the labels.
    """

    build: Build
    organs: dict[str, Organ]
    image: Floats
    annotation: Annotation


def make_abdomen(
    settings: AbdomenPhantom,
    *,
    number: int,
    contrast: bool = True,
    part_of_tubes: bool = False,
    seed: int = 0,
) -> AbdomenPatient:
    """Draw a patient; it depends on the arguments alone, not on other patients."""
    rng = stream(seed, number, "anatomy")
    extent = float(rng.uniform(*settings.field_of_view_mm))
    pixel = round(extent / settings.pixels, 4)
    step = float(rng.choice(settings.slices_mm))
    slices = max(4, round(float(rng.uniform(*settings.coverage_mm)) / step))
    shape, spacing = (settings.pixels, settings.pixels, slices), (pixel, pixel, step)
    build = Build.draw(contrast, extent, rng)
    frame = _frame(shape, spacing, build, stream(seed, number, "warp"))
    organs = find_organs(frame, stream(seed, number, "organs"))
    body = draw_body(
        frame.axes,
        frame.points,
        frame.cavity,
        build,
        spacing=spacing,
        rng=stream(seed, number, "body"),
    )
    image = render(
        body,
        frame,
        organs,
        build,
        spacing=spacing,
        noise_hu=float(rng.uniform(*settings.noise_hu)),
        rng=stream(seed, number, "image"),
    )
    low, high = rng.uniform((0.05, 0.7), (0.3, 0.95))
    annotation = annotate(
        organs,
        shape=shape,
        spacing=spacing,
        settings=settings,
        tube_slices=(round(low * slices), round(high * slices)) if part_of_tubes else None,
    )
    return AbdomenPatient(build, organs, image, annotation)


def _frame(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    build: Build,
    rng: np.random.Generator,
) -> Frame:
    """Return the grid, and its places in the average patient: scaled and warped."""
    x, y, z = grid_points(shape, spacing)
    axes: Points = (x, y + np.float32(12), z + np.float32(build.height))
    x, y, z = (
        a / np.float32(s) + np.float32(size) * smooth_field(shape, spacing, 38, rng)
        for a, s, size in zip(axes, build.scale, (4.0, 4.0, 5.0), strict=True)
    )
    points = (x, y, z)
    return Frame(axes, points, inner_cavity(points))
