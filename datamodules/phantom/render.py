"""The image: balanced steady-state cine MRI of the mean shapes, with nothing of the annotator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from datamodules.phantom.heart import HeartModel
from datamodules.phantom.random_field import Floats, gaussian_field
from datamodules.phantom.settings import CardiacPhantom
from datamodules.phantom.surface import ANGLES, N_ANGLES, Array, StarSurface
from datamodules.phantom.thorax import Tissue, paint, thorax

SUBSLICES = 5


@dataclass(frozen=True)
class Scene:
    """What the frames of a patient share: the grid, where the heart is, and the surroundings.

    Args:
        x: Positions along the first axis ``(X,)``, mm.
        y: Positions along the second axis ``(Y,)``, mm.
        slices: Levels of the slices ``(Z,)``, mm.
        thickness: Thickness of a slice, mm.
        spacing: Voxel size, mm.
        offset: Place of the left ventricle's axis in each slice ``(Z, 2)``, mm.
        background: Signal without the heart ``(X, Y, Z)``.
        texture: Three fields of variance 1 ``(3, X, Y, Z)`` that roughen fat and trabeculae.
        sensitivity: Coil sensitivity times slice drift ``(X, Y, Z)``, about 1.
        tissue: Signals.
        papillary: Angle, size in mm and depth of the two papillary muscles ``(2, 3)``.
        noise: Standard deviation of the noise in units of the blood signal.
        gain: Stored units per unit of signal.
    """

    x: Floats
    y: Floats
    slices: Array
    thickness: float
    spacing: tuple[float, float, float]
    offset: Array
    background: Floats
    texture: Floats
    sensitivity: Floats
    tissue: Tissue
    papillary: Array
    noise: float
    gain: float


def draw_scene(model: HeartModel, settings: CardiacPhantom, rng: np.random.Generator) -> Scene:
    """Draw the surroundings of a patient's heart and the properties of the scan."""
    anatomy = model.anatomy
    shape, spacing = anatomy.shape, anatomy.spacing
    x, y = (np.arange(n, dtype=np.float32) * np.float32(spacing[0]) for n in shape[:2])
    slices = np.asarray(anatomy.slices)
    middle = np.array([x[-1], y[-1]]) / 2
    place = middle + rng.normal(0, 4, 2) + (16, 4)
    tissue = Tissue.draw(rng)
    drift = rng.normal(0, settings.slice_drift, shape[2])
    log_coil = gaussian_field(shape, spacing, (70, 70, 90), rng)
    log_coil *= np.float32(rng.uniform(*settings.bias_field))
    # The coil lies on the chest: brighter in front, at the top of the picture.
    log_coil += np.float32(0.12) * (np.float32(middle[1]) - y[None, :, None]) / y[-1]
    heart_x, heart_y = x - np.float32(place[0] - 16), y - np.float32(place[1] - 4)
    angles = model.habit.septum + np.array([2.3, -2.35]) + rng.normal(0, 0.15, 2)
    return Scene(
        x=x,
        y=y,
        slices=slices,
        thickness=anatomy.thickness,
        spacing=spacing,
        offset=place + rng.normal(0, settings.shift_mm, (shape[2], 2)),
        background=thorax(heart_x, heart_y, slices, spacing=spacing, tissue=tissue, rng=rng),
        texture=np.stack(
            [gaussian_field(shape, spacing, (d, d, 12), rng) for d in (12.0, 2.6, 2.6)]
        ),
        sensitivity=np.exp(log_coil) * (1 + drift.astype(np.float32)),
        tissue=tissue,
        papillary=np.column_stack([angles, rng.uniform(0.15, 0.21, 2), rng.uniform(0.3, 0.42, 2)]),
        noise=float(rng.uniform(*settings.noise)),
        gain=float(np.exp(rng.uniform(np.log(180), np.log(700)))),
    )


def render(
    model: HeartModel,
    scene: Scene,
    *,
    frame: str,
    settings: CardiacPhantom,
    rng: np.random.Generator,
) -> Floats:
    """Return the image of a frame ``(X, Y, Z)``, in stored units.

    A slice is the mean of ``SUBSLICES`` planes across its thickness; in each plane a pixel gets
    the share of every tissue that a straight edge at the signed distance gives it. Blur, coil
    sensitivity and Rician noise follow.
    """
    steps = ((np.arange(SUBSLICES) + 0.5) / SUBSLICES - 0.5) * scene.thickness
    total = np.zeros_like(scene.background)
    for step in steps:
        z = scene.slices + step
        image = scene.background.copy()
        below = z >= model.left[frame].valve
        for planes, draw in ((below, _ventricles), (~below, _atria)):
            if planes.any():
                part = np.ascontiguousarray(image[..., planes])
                draw(part, model, scene, frame, z[planes], planes)
                image[..., planes] = part
        total += image
    image = total / SUBSLICES
    image *= 1 + 0.03 * gaussian_field(image.shape, scene.spacing, (4, 4, 4), rng)
    blur = settings.psf_fwhm_px / 2.3548
    image = gaussian_filter(image, (blur, blur, 0), mode="nearest") * scene.sensitivity
    noise = scene.noise * rng.standard_normal((2, *image.shape), dtype=np.float32)
    return np.hypot(image + noise[0], noise[1]) * np.float32(scene.gain)


def _window(scene: Scene, surface: StarSurface, margin: float) -> tuple[slice, slice]:
    """Return the part of the grid within ``margin`` mm of the surface's largest extent."""
    reach = np.maximum(surface.radius, 0).max(axis=1, keepdims=True) + margin
    low, high = (surface.centre - reach).min(axis=0), (surface.centre + reach).max(axis=0)
    first = np.maximum(np.floor(low / scene.spacing[0]), 0).astype(int)
    last = np.maximum(np.ceil(high / scene.spacing[0]), 0).astype(int) + 1
    return slice(first[0], last[0]), slice(first[1], last[1])


def _union(*windows: tuple[slice, slice]) -> tuple[slice, slice]:
    i, j = (
        slice(min(w[a].start for w in windows), max(w[a].stop for w in windows)) for a in (0, 1)
    )
    return i, j


def _ventricles(
    image: Floats, model: HeartModel, scene: Scene, frame: str, z: Array, planes: np.ndarray
) -> None:
    """Paint the ventricles in the planes at levels ``z`` over ``image``, in place."""
    heart = model(frame, z).shifted(scene.offset[planes])
    i, j = _union(*(_window(scene, surface, 18) for surface in (heart.epi, heart.right)))
    image, x, y = image[i, j], scene.x[i], scene.y[j]
    tissue, pixel = scene.tissue, scene.spacing[0]
    fat, fine, coarse = scene.texture[:, i, j][..., planes]
    depth = ((z - model.left[frame].valve) / (model.apex - model.left[frame].valve)).astype(
        np.float32
    )
    endo, epi, right = (s.signed_distance(x, y) for s in (heart.endo, heart.epi, heart.right))

    # Fat: thick at the base and in the grooves between the ventricles, never quite absent.
    outside = np.minimum(epi, right - 3.0)
    layer = np.logaddexp(0, 1.2 + 1.6 * fat - 1.5 * depth) + 3.0 * np.exp(-depth / 0.12)
    groove = 3 * np.exp(-(((epi - right) / 9) ** 2))
    paint(image, tissue.fat * (1 + 0.05 * fine), outside - layer - groove, 1.5 * pixel)

    # Right ventricle, with trabeculae near the free wall and the apex.
    paint(image, tissue.myocardium, right - 3.0, pixel)
    near = np.exp(-((np.minimum(right, 0) / 9) ** 2)) * (0.35 + 0.4 * depth)
    strands = np.clip(fine + 0.2, 0, 1.2) * near
    paint(image, tissue.blood * (0.96 - 0.5 * strands), right, pixel)

    # Left ventricle, with trabeculae near the apex and two papillary muscles.
    paint(image, tissue.myocardium * (1 + 0.03 * coarse), epi, pixel)
    near = np.exp(-((np.minimum(endo, 0) / 5) ** 2)) * np.clip(0.1 + 0.5 * depth, 0, 0.45)
    strands = np.clip(coarse, 0, 1.2) * near
    paint(image, tissue.blood * (1 - 0.5 * strands), endo, pixel)
    for angle, size, start in scene.papillary.tolist():
        muscle = _papillary(heart.endo, angle, size, depth, start)
        k, m = _window(scene, muscle, 4)
        part = image[k.start - i.start : k.stop - i.start, m.start - j.start : m.stop - j.start]
        inside = muscle.signed_distance(scene.x[k], scene.y[m])
        paint(part, tissue.myocardium, inside, pixel)


def _papillary(
    endo: StarSurface, angle: float, size: float, depth: Floats, start: float
) -> StarSurface:
    """Return a papillary muscle: an ellipse inside the cavity that starts at ``start``."""
    at = round(angle / (2 * np.pi) * N_ANGLES) % N_ANGLES
    reach = np.maximum(endo.radius[:, at], 0)
    full = np.clip((depth - start) / 0.12, 0, 1) * np.clip((0.9 - depth) / 0.1, 0, 1)
    radius = size * reach * full - 0.8 * (1 - full)
    distance = np.maximum(reach - 1.25 * np.maximum(radius, 0) - 1.8, 0)
    centre = endo.centre + distance[:, None] * np.array([np.cos(angle), np.sin(angle)])
    return StarSurface(centre, radius[:, None] * (1 + 0.22 * np.cos(2 * (ANGLES - angle))))


def _atria(
    image: Floats, model: HeartModel, scene: Scene, frame: str, z: Array, planes: np.ndarray
) -> None:
    """Paint atria, aortic root and outflow tract in the planes above the valves, in place.

    They continue what is below the valve plane: left atrium and aortic root under the left
    ventricle, right atrium and outflow tract under the right one.
    """
    tissue, pixel, habit = scene.tissue, scene.spacing[0], model.habit
    valve = model.left[frame].valve
    above = (valve - z)[:, None]
    heart = model(frame, np.full(len(z), valve)).shifted(scene.offset[planes])
    toward = np.array([np.cos(habit.septum), np.sin(habit.septum)])
    front = np.array([-toward[1], toward[0]])  # along the septum, to the front
    left, right = heart.endo.centre, heart.right.centre
    size, wide = heart.epi.radius.mean(), heart.right.radius.mean()

    def chamber(centre: Array, radius: float, wave: Array) -> StarSurface:
        shrink = radius - 0.12 * above
        return StarSurface(centre, shrink * (1 + wave))

    wave, other = 1.3 * habit.ripple, 1.3 * habit.ripple_rv
    chambers = (
        (chamber(left - (0.10 * size + 0.3 * above) * front, 0.78 * size, wave), 1.8),
        (chamber(right - (0.22 * wide + 0.3 * above) * front, 0.76 * wide, other), 2.0),
        (chamber(right + (0.62 * wide + 0.2 * above) * front, 0.38 * wide, wave), 2.5),
        (chamber(left + 0.52 * size * toward + 0.36 * size * front, 13.0, other), 1.8),
    )
    i, j = _union(*(_window(scene, surface, 20) for surface, _ in chambers))
    image, x, y = image[i, j], scene.x[i], scene.y[j]
    fat, fine, coarse = scene.texture[:, i, j][..., planes]
    distances = [surface.signed_distance(x, y) + 0.8 * fat for surface, _ in chambers]
    outside = np.minimum.reduce(distances)
    paint(image, tissue.fat * (1 + 0.05 * fine), outside - 7 - 2 * fat, 2 * pixel)
    for distance, (_, wall) in zip(distances, chambers, strict=True):
        paint(image, 1.8 * tissue.myocardium, distance - wall, pixel)  # thin walls
        paint(image, tissue.blood * (0.93 + 0.04 * coarse), distance, pixel)
