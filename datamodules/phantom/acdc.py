"""A cardiac phantom in the on-disk layout of ACDC (Bernard et al., IEEE TMI 37(11), 2018).

::

    root/
      database/training/patient001/   Info.cfg, patient001_frame01.nii.gz, ..._frame01_gt.nii.gz
      database/testing/patient031/    the same; ED and ES of each patient, as in ACDC
      posterior/patient001/           patient001_frame01.npz: the labels' probabilities
      phantom.json                    marks the folder as a phantom; seed, version, settings
      split.json                      {"train": [...], "val": [...], "test": [...]}

``database`` contains nothing that ACDC does not have. What ACDC has and a reader of labeled frames
has no use for is left out: the 4D cine series (ten times the size) and the citation notes (these
are not ACDC's images).

Positions along z are in mm from the end-diastolic valve plane towards the apex; x points to the
right of the picture and y down, from the axis of the left ventricle at its middle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import brentq

from datamodules.phantom.posterior import Annotation, Floats, Layer, gaussian_field, stream
from datamodules.phantom.shapes import (
    Ellipsoid,
    Grid,
    Points,
    Shape,
    Tube,
    box_about,
    paint,
    smooth_union,
)
from datamodules.phantom.writer import Files, Patient, Phantom, PhantomSettings, Scan

RV, MYO, LV = 1, 2, 3
FRAMES = ("ED", "ES")
FIELD_OF_VIEW_MM = (172.0, 320.0)  # a heart takes most of one image and a small part of another
PIXEL_MM = (1.4, 2.0)
DISTANCES_MM = (8.0, 9.0, 10.0, 10.0, 10.0)  # of slices 0.6 to 0.8 of it thick
FINE_MM = (5.0, 7.0)  # of slices without gaps
SIGMA_MM = 0.8
CORRELATION_MM = (4.0, 4.0, 1.75)
BASAL_PI = 0.5  # probability that the annotator outlines the slice at the valve plane
SHIFT_MM = 1.0  # of a slice between breath-holds
SUBSLICES = 3
BLOOD, MUSCLE, FAT, LUNG = 1.0, 0.29, 0.85, 0.08  # signals of balanced steady-state imaging

# Means and standard deviations of each diagnostic group: volume of the left cavity at ED (mL), its
# ejection fraction, thickness of its wall at ED (mm), volume and ejection fraction of the right
# cavity, shortening (mm). They follow Hudsmith et al. 2005, Kawel-Boehm et al. 2015 and the
# criteria by which ACDC assigned its groups.
GROUPS: Mapping[str, tuple[tuple[float, float], ...]] = {
    "NOR": ((145, 20), (0.63, 0.04), (7.8, 0.8), (158, 20), (0.57, 0.04), (13, 2)),
    "MINF": ((195, 28), (0.31, 0.04), (8.6, 0.8), (145, 22), (0.50, 0.05), (8, 2)),
    "DCM": ((265, 32), (0.24, 0.06), (8.0, 0.8), (180, 30), (0.41, 0.06), (6, 2)),
    "HCM": ((122, 16), (0.69, 0.04), (11.5, 0.8), (140, 20), (0.62, 0.04), (12, 2)),
    "RV": ((125, 18), (0.57, 0.04), (7.6, 0.7), (255, 20), (0.37, 0.05), (11, 2)),
}

SURROUNDINGS = (  # in the order in which they are painted
    Shape("fat under the skin", (FAT,), (Ellipsoid((18, 66, 0), (142, 152, 1000)),), move_mm=4),
    Shape("chest wall", (0.24,), (Ellipsoid((18, 66, 0), (132, 142, 1000)),), move_mm=4),
    Shape("lung", (LUNG,), (Ellipsoid((18, 66, 0), (120, 130, 1000)),), move_mm=4),
    Shape("fat", (FAT,), (Ellipsoid((-36, -36, 30), (42, 40, 90)),), move_mm=6, scale=0.1),
    Shape("liver", (0.37,), (Ellipsoid((-50, 142, 70), (150, 100, 230)),), move_mm=5, scale=0.03),
    Shape("stomach", (0.35,), (Ellipsoid((28, 82, 60), (25, 19, 90)),), move_mm=6, scale=0.1),
    Shape("wall of the aorta", (0.3,), (Tube(((53, 47, -80, 13), (58, 47, 140, 13))),)),
    Shape("aorta", (0.93,), (Tube(((53, 47, -80, 11), (58, 47, 140, 11))),)),
)


@dataclass(frozen=True)
class Anatomy:
    """A patient's heart and the stack of slices that it is imaged with.

    Args:
        group: One of :data:`GROUPS`.
        lv_volume: Volume of the left cavity at ED and at ES, mL.
        rv_volume: Volume of the right cavity at ED and at ES, mL.
        wall: Thickness of the left wall at the base at ED, mm.
        length: Length of the left cavity at ED, mm.
        valve: Level of the valve plane at ED and ES, mm (0 at ED).
        basal: Slice at the valve plane, the ambiguous one, at ED and at ES.
        slices: Level of each slice ``(Z,)``, mm.
        thickness: Thickness of a slice, mm, at most its distance.
        shape: Voxels of the image.
        spacing: Voxel size, mm.
        info: The content of ``Info.cfg``.
    """

    group: str
    lv_volume: Mapping[str, float]
    rv_volume: Mapping[str, float]
    wall: float
    length: float
    valve: Mapping[str, float]
    basal: Mapping[str, int]
    slices: Floats
    thickness: float
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    info: Mapping[str, int | float | str]

    @property
    def apex(self) -> float:
        """Level of the epicardial apex, mm; it stays where it is over the cycle."""
        return self.length + 0.7 * self.wall

    def radii(self, frame: str) -> tuple[float, float]:
        """Return the radii of endocardium and epicardium at the valve plane, mm.

        Both are halves of ellipsoids. The wall has the same volume in both frames.
        """

        def radius(volume: float, length: float) -> float:
            return (3000 * volume / (2 * np.pi * length)) ** 0.5

        inner = radius(self.lv_volume["ED"], self.length)
        if frame == "ED":
            return inner, inner + self.wall
        outer = (inner + self.wall) ** 2 * self.apex * 2 * np.pi / 3000  # mL of cavity and wall
        both = outer - self.lv_volume["ED"] + self.lv_volume["ES"]
        inner = radius(self.lv_volume["ES"], self.depth("ES"))
        return inner, radius(both, self.apex - self.valve["ES"])

    def depth(self, frame: str) -> float:
        """Return the length of the left cavity, mm; in systole the wall is thicker."""
        return self.length if frame == "ED" else self.apex - self.valve["ES"] - self.wall


def draw_anatomy(patient: Patient, settings: PhantomSettings, seed: int) -> Anatomy:
    """Draw a patient; the groups take turns."""
    rng = stream(seed, patient.number, "anatomy")
    group = list(GROUPS)[(patient.number - 1) % len(GROUPS)]
    lv, lv_ef, wall, rv, rv_ef, shortening = (
        mean + sd * float(np.clip(rng.normal(), -2, 2)) for mean, sd in GROUPS[group]
    )
    length = 90 * (lv / 145) ** 0.22 * float(rng.uniform(0.96, 1.04))
    thin, fine = float(rng.uniform(0.6, 0.8)), round(float(rng.uniform(*FINE_MM)) * 2) / 2
    distance = float(rng.choice(DISTANCES_MM))
    thickness = thin * distance
    if "fine stack" in patient.quirks:
        thickness = distance = fine

    # In both frames one slice lies close to the valve plane: the one the annotator may or may not
    # outline. It alone shows atria and ventricles together, so the image shows which it is.
    steps = round(shortening / distance)
    at_es, at_ed = np.sort(rng.uniform(-0.15, 0.15, 2)).tolist()
    valve = distance * (steps + at_ed - at_es)
    above = int(rng.integers(2))
    below = int((length + 0.7 * wall) / distance - at_ed) + int(rng.random() < 0.25)

    pixel = round(float(rng.uniform(*PIXEL_MM)) * settings.coarsen, 4)
    extent = np.sort(rng.uniform(*FIELD_OF_VIEW_MM, size=2))
    ed = 4 if "late ED" in patient.quirks else 1
    es = ed + int(rng.integers(6, 12))
    height = float(np.clip(round(rng.normal(171, 8)), 150, 198))
    weight = float(np.clip(round(rng.normal(26, 3.5) * (height / 100) ** 2), 45, 130))
    frames = max(int(rng.integers(24, 36)), es + 4)
    return Anatomy(
        group=group,
        lv_volume={"ED": lv, "ES": lv * (1 - lv_ef)},
        rv_volume={"ED": rv, "ES": rv * (1 - rv_ef)},
        wall=wall,
        length=length,
        valve={"ED": 0.0, "ES": valve},
        basal={"ED": above, "ES": above + steps},
        slices=(distance * (np.arange(above + 1 + below) - above + at_ed)).astype(np.float32),
        thickness=thickness,
        shape=(int(extent[0] / pixel), int(extent[1] / pixel), above + 1 + below),
        spacing=(pixel, pixel, distance),
        info={
            "ED": ed,
            "ES": es,
            "Group": group,
            "Height": height,
            "NbFrame": frames,
            "Weight": weight,
        },
    )


class Heart:
    """The heart of a patient: level sets of its ventricles at ED and at ES.

    Args:
        anatomy: The patient.
        rng: Source of the traits that do not change between the frames.
    """

    def __init__(self, anatomy: Anatomy, rng: np.random.Generator) -> None:
        self.anatomy = anatomy
        self.septum = float(np.pi + 0.25 + rng.normal(0, 0.12))  # its direction in the picture
        self.reach = float(rng.uniform(0.78, 0.9))  # of the right ventricle towards the apex
        self.aspect = float(rng.uniform(1.05, 1.22))  # of its outline
        self.flat = float(rng.uniform(0.06, 0.13)) if anatomy.group == "RV" else 0.0
        turn, change, width = rng.normal(0, 0.3), 0.05, 1.2
        if anatomy.group == "HCM":  # a segment of the wall is thick
            change, width = rng.uniform(0.45, 0.75), rng.uniform(0.8, 1.2)
        elif anatomy.group == "MINF":  # a segment is thin, and does not contract
            turn += rng.choice((0.9, np.pi, -2.2))
            change, width = -rng.uniform(0.35, 0.5), rng.uniform(0.7, 1.1)
        self.segment, self.change, self.width = self.septum + turn, float(change), float(width)
        self.middle = float(rng.uniform(0.25, 0.6))  # of the segment, from base to apex
        self.scale = {frame: self._fit_right(frame) for frame in FRAMES}

    def toward(self, along: float, across: float, level: float) -> tuple[float, float, float]:
        """Return the place so far from the axis along the septum's direction, and across it."""
        cos, sin = np.cos(self.septum), np.sin(self.septum)
        return along * cos - across * sin, along * sin + across * cos, level

    def left(self, points: Points, frame: str) -> tuple[Floats, Floats]:
        """Return the level sets of endocardium and epicardium; above the valve they go on."""
        anatomy, valve = self.anatomy, self.anatomy.valve[frame]
        inner, outer = anatomy.radii(frame)
        x, y, z = points
        z = np.maximum(z - np.float32(valve), 0)
        depth, span = anatomy.depth(frame), anatomy.apex - valve
        endo = Ellipsoid((0, 0, 0), (inner, inner, depth)).level((x, y, z))
        epi = Ellipsoid((0, 0, 0), (outer, outer, span)).level((x, y, z))
        angle = np.arctan2(y, x)
        level = np.exp(-(((z / span - self.middle) / 0.35) ** 2))
        segment = np.exp(-0.5 * (_turn(angle - self.segment) / self.width) ** 2) * level
        infarct = anatomy.group == "MINF" and frame == "ES"
        thick = 0.5 * self.change * (outer - inner) * (1.25 if infarct else 1.0)
        flat = self.flat * outer * np.exp(-0.5 * (_turn(angle - self.septum) / 0.6) ** 2)
        shift = flat - (0.12 * inner if infarct else 0.0) * segment
        endo, epi = endo + shift + thick * segment, epi + shift - thick * segment
        return endo, np.minimum(epi, endo - 2.5)

    def right(self, points: Points, frame: str, scale: float) -> Floats:
        """Return the level set of the right endocardium; what is inside the epicardium is not it.

        The outline overlaps the left epicardium, and its far end is the width of the
        crescent away from it.
        """
        valve, (_, outer) = self.anatomy.valve[frame], self.anatomy.radii(frame)
        x, y, z = points
        z = np.maximum(z - np.float32(valve), 0)
        half = 36 * scale**0.5
        middle = outer + 36 * scale - half
        cos, sin = np.float32(np.cos(self.septum)), np.float32(np.sin(self.septum))
        along, across = x * cos + y * sin, y * cos - x * sin
        lean = np.float32(0.15) * z  # the outline follows the epicardium towards the apex
        radii = (half, half * self.aspect, self.reach * (self.anatomy.apex - valve))
        return Ellipsoid((middle, 0, 0), radii).level((along + lean, across, z))

    def _fit_right(self, frame: str) -> float:
        """Return the scale at which the right cavity has its volume."""
        valve, apex = self.anatomy.valve[frame], self.anatomy.apex
        side = np.arange(-110, 110, 4, dtype=np.float32)
        z = valve + (np.arange(16, dtype=np.float32) + 0.5) / 16 * (apex - valve)
        points = side[:, None, None], side[None, :, None], z[None, None, :]
        _, epi = self.left(points, frame)

        def miss(scale: float) -> float:
            inside = np.clip(0.5 - np.maximum(self.right(points, frame, scale), -epi) / 4, 0, 1)
            volume = float(inside.sum()) * 16 * (apex - valve) / 16 / 1000
            return volume - self.anatomy.rv_volume[frame]

        return float(brentq(miss, 0.05, 4.0, xtol=1e-3))


def _turn(angle: Floats) -> Floats:
    """Return angles in [-pi, pi)."""
    return np.mod(angle + np.float32(np.pi), np.float32(2 * np.pi)) - np.float32(np.pi)


@dataclass(frozen=True)
class Scene:
    """What the frames of a patient share: where things are, the surroundings and the scanner.

    Args:
        x: Positions along the first axis from the heart's axis ``(X,)``, mm.
        y: Positions along the second axis ``(Y,)``, mm.
        warp: What is added to x and y in the heart's own coordinates ``(2, X, Y, Z)``, mm: the
            breath-holds, the heart's tilt and its unevenness.
        background: Signal without the heart ``(X, Y, Z)``.
        texture: Two fields of variance 1 ``(2, X, Y, Z)`` that roughen fat and trabeculae.
        sensitivity: Coil sensitivity times slice drift ``(X, Y, Z)``, about 1.
        muscle: Signal of myocardium.
        noise: Standard deviation of the noise in units of the blood signal.
        gain: Stored units per unit of signal.
    """

    x: Floats
    y: Floats
    warp: Floats
    background: Floats
    texture: Floats
    sensitivity: Floats
    muscle: float
    noise: float
    gain: float

    def points(self, slices: Floats, repeats: int) -> Points:
        """Return the heart's coordinates at levels ``slices``, ``repeats`` of them a slice."""
        dx, dy = np.repeat(self.warp, repeats, axis=-1)
        return self.x[:, None, None] + dx, self.y[None, :, None] + dy, slices[None, None, :]


def draw_scene(anatomy: Anatomy, settings: PhantomSettings, rng: np.random.Generator) -> Scene:
    """Draw the surroundings of a patient's heart and the properties of the scan."""
    shape, spacing = anatomy.shape, anatomy.spacing

    def field(in_plane: float, through: float) -> Floats:
        return gaussian_field(shape, spacing, (in_plane, in_plane, through), rng)

    place = [(n - 1) * spacing[0] / 2 + o for n, o in zip(shape, (16, 4), strict=False)]
    x, y = (
        (np.arange(n) * spacing[0] - p - rng.normal(0, 4)).astype(np.float32)
        for n, p in zip(shape, place, strict=False)
    )
    tilt = (np.clip(anatomy.slices, 0, anatomy.apex) / anatomy.apex - 0.4) * rng.normal(
        0, 3, (2, 1, 1, 1)
    )
    shift = rng.normal(0, SHIFT_MM, (2, 1, 1, shape[2]))
    uneven = np.stack([field(26, 40), field(26, 40)]) * np.float32(1.6)
    drift = rng.normal(0, 0.06, shape[2])
    coil = field(70, 90) * rng.uniform(0.10, 0.22) - 0.12 * y[None, :, None] / np.ptp(y)
    return Scene(
        x=x,
        y=y,
        warp=(uneven + tilt + shift).astype(np.float32),
        background=_surroundings(anatomy, x, y, rng),
        texture=np.stack([field(12, 12), field(2.6, 12)]),
        sensitivity=(np.exp(coil) * (1 + drift)).astype(np.float32),
        muscle=MUSCLE * float(rng.uniform(0.85, 1.15)),
        noise=float(rng.uniform(0.01, 0.03)) * settings.noise_scale,
        gain=float(np.exp(rng.uniform(np.log(180), np.log(700)))),
    )


def _surroundings(anatomy: Anatomy, x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    """Return the signal without the heart ``(X, Y, Z)``."""
    shape, spacing = anatomy.shape, anatomy.spacing
    axes = x[:, None, None], y[None, :, None], anatomy.slices[None, None, :]
    warps = (4 * gaussian_field(shape, spacing, (22, 22, 40), rng) for _ in range(2))
    u, v = (axis + warp for axis, warp in zip(axes[:2], warps, strict=True))
    grid = Grid(axes, (u, v, axes[2] + 0 * u))
    image = np.full((1, *shape), 0.01, dtype=np.float32)
    for row in SURROUNDINGS:
        level, box = grid.level(row.varied(rng))
        signal = row.signal[0] * float(np.exp(rng.normal(0, 0.08)))
        paint(image[:, *box], signal, level, 1.5 * spacing[0])
    grain = gaussian_field(shape, spacing, (3, 3, 6), rng)
    vessels = np.clip(gaussian_field(shape, spacing, (3.2, 3.2, 8), rng) - 1.1, 0, 1.2)
    vessels *= (image[0] > 0.5 * LUNG) & (image[0] < 0.5)  # in lung, liver and muscle
    return np.maximum(image[0] * (1 + 0.1 * grain) + 0.25 * vessels, 0)


def render(
    heart: Heart, scene: Scene, frame: str, settings: PhantomSettings, rng: np.random.Generator
) -> Floats:
    """Return the image of a frame ``(X, Y, Z)``, in stored units; it knows no annotator.

    A slice is the mean of :data:`SUBSLICES` planes across its thickness; in each plane a pixel
    gets the share of every tissue that a straight edge gives it. Blur, coil sensitivity and
    Rician noise follow.
    """
    anatomy, pixel = heart.anatomy, heart.anatomy.spacing[0]
    valve, (_, outer) = anatomy.valve[frame], anatomy.radii(frame)
    steps = ((np.arange(SUBSLICES) + 0.5) / SUBSLICES - 0.5) * anatomy.thickness
    slices = (anatomy.slices[:, None] + steps).ravel().astype(np.float32)
    points = scene.points(slices, SUBSLICES)
    image = np.repeat(scene.background, SUBSLICES, axis=-1)[None]
    fat, fine = np.repeat(scene.texture, SUBSLICES, axis=-1)
    above = slices - np.float32(valve)  # negative above the valve plane

    # The ventricles reach up to the valve plane, atria and aortic root down to it.
    endo, epi = heart.left(points, frame)
    right = heart.right(points, frame, heart.scale[frame])
    wide = 36 * heart.scale[frame] ** 0.5
    chambers = (
        Ellipsoid(heart.toward(0, 0.1 * outer, valve), (0.8 * outer, 0.8 * outer, 60)),
        Ellipsoid(heart.toward(outer + 4, 0.2 * wide, valve), (0.8 * wide, 0.8 * wide, 60)),
        Tube(
            (
                (*heart.toward(0.5 * outer, 0.4 * outer, valve), 13),
                (*heart.toward(0.6 * outer, 0.4 * outer, valve - 40), 12),
            )
        ),
    )
    atria = [np.maximum(part.level(points) + 0.8 * fat, above) for part in chambers]
    ventricles = np.maximum(smooth_union(epi, right - 3, 4), -above)
    outside = np.minimum.reduce([*atria, ventricles])
    paint(image, FAT, outside - np.logaddexp(0, 2 + 1.6 * fat - 0.02 * above), 1.5 * pixel)
    for level in atria:
        paint(image, 1.8 * scene.muscle, level - 2, pixel)  # thin walls
        paint(image, 0.93 * BLOOD, level, pixel)
    strands = np.clip(fine, 0, 1.2)  # trabeculae near the walls
    for level, signal in (
        (right - 3, scene.muscle),
        (right, BLOOD * (0.96 - 0.3 * strands * np.exp(-((np.minimum(right, 0) / 9) ** 2)))),
        (epi, scene.muscle),
        (endo, BLOOD * (1 - 0.2 * strands * np.exp(-((np.minimum(endo, 0) / 5) ** 2)))),
        (_papillary(heart, points, frame), scene.muscle),
    ):
        paint(image, signal, np.maximum(level, -above), pixel)

    volume = image[0].reshape(*anatomy.shape, SUBSLICES).mean(axis=-1)
    volume *= 1 + 0.03 * gaussian_field(anatomy.shape, anatomy.spacing, (4, 4, 4), rng)
    volume = gaussian_filter(volume, (0.55, 0.55, 0), mode="nearest") * scene.sensitivity
    noise = scene.noise * rng.standard_normal((2, *volume.shape), dtype=np.float32)
    return np.hypot(volume + noise[0], noise[1]) * np.float32(scene.gain)


def _papillary(heart: Heart, points: Points, frame: str) -> Floats:
    """Return the level set of the two papillary muscles, dark in the left cavity but part of it."""
    anatomy, valve = heart.anatomy, heart.anatomy.valve[frame]
    inner, depth = anatomy.radii(frame)[0], anatomy.depth(frame)
    muscles = []
    for side in (-1, 1):
        nodes = [
            (*heart.toward(-0.45 * out * inner, side * 0.45 * out * inner, valve + at * depth), r)
            for at, out, r in ((0.3, 1, 0.0), (0.45, 1, 0.17 * inner), (0.75, 0.7, 0.14 * inner))
        ]
        muscles.append(Tube(tuple(nodes)).level(points))
    return np.minimum(*muscles)


def annotate(heart: Heart, scene: Scene, frame: str, settings: PhantomSettings) -> Annotation:
    """Return the annotation of a frame: right ventricle, and over it epicardium and endocardium.

    So P(LV) is q_endo, P(MYO) is (1 - q_endo) q_epi, P(RV) is (1 - q_endo) (1 - q_epi) q_right.
    The slice at the valve plane is outlined with probability :data:`BASAL_PI`, and those above it
    never are.
    """
    anatomy = heart.anatomy
    points = scene.points(anatomy.slices, 1)
    endo, epi = heart.left(points, frame)
    right = heart.right(points, frame, heart.scale[frame])
    sigma = SIGMA_MM * settings.sigma_scale
    layers = []
    for label, level in ((RV, right), (MYO, epi), (LV, endo)):
        box = box_about(level, 8 * sigma)
        layers.append(Layer(label, level[box], box, sigma))
    outlined = np.ones(anatomy.shape[2], dtype=np.float32)
    outlined[: anatomy.basal[frame]] = 0
    outlined[anatomy.basal[frame]] = BASAL_PI
    return Annotation(
        layers=layers,
        shape=anatomy.shape,
        spacing=anatomy.spacing,
        num_classes=4,
        correlation_mm=CORRELATION_MM,
        bias_share=settings.bias_share,
        outlined=outlined,
    )


def draw(patient: Patient, settings: PhantomSettings, seed: int) -> tuple[list[Scan], Files]:
    """Draw both frames of a patient, and ``Info.cfg``: ``Key: value`` lines without a section.

    Headers are ACDC's: origin 0, x and y reversed with respect to RAS. With the quirk "unit
    sform" the sform has unit scales, and only qform and pixdim give the spacing.
    """
    anatomy = draw_anatomy(patient, settings, seed)
    heart = Heart(anatomy, stream(seed, patient.number, "heart"))
    scene = draw_scene(anatomy, settings, stream(seed, patient.number, "scene"))
    half = "testing" if patient.part == "test" else "training"
    folder = f"database/{half}/{patient.name}"
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    scans = []
    for frame in FRAMES:
        name = f"{patient.name}_frame{anatomy.info[frame]:02d}"
        rng = stream(seed, patient.number, f"image {frame}")
        image = np.rint(render(heart, scene, frame, settings, rng))
        scans.append(
            Scan(
                name=name,
                images={f"{folder}/{name}.nii.gz": np.clip(image, 0, 32767).astype(np.int16)},
                label=f"{folder}/{name}_gt.nii.gz",
                annotation=annotate(heart, scene, frame, settings),
                affine=flip * [*anatomy.spacing, 1],
                sform=flip if "unit sform" in patient.quirks else None,
            )
        )
    lines = (f"{key}: {value}\n" for key, value in anatomy.info.items())
    return scans, {f"{folder}/Info.cfg": "".join(lines)}


ACDC = Phantom(
    dataset="acdc",
    title="ACDC",
    version=2,
    releases=("2017",),
    patients={"train": 24, "val": 6, "test": 10},
    quirks={"fine stack": 0.1, "unit sform": 0.1, "late ED": 0.025},
    name=lambda release, number: f"patient{number:03d}",
    draw=draw,
)
