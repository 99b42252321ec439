"""An abdominal phantom in the on-disk layout of FLARE (Ma et al., MedIA 82:102616, 2022).

::

    root/
      FLARE21/
        TrainingImg/train_000_0000.nii.gz     CT, HU
        TrainingMask/train_000.nii.gz         1 liver, 2 kidneys, 3 spleen, 4 pancreas
      posterior/train_000/train_000.npz       the labels' probabilities, in the file's own axes
      phantom.json                            marks the folder as a phantom; seed, version, settings
      split.json                              {"train": [...], "val": [...], "test": [...]}

FLARE22 has ``FLARE22_LabeledCase50/images/FLARE22_Tr_0001_0000.nii.gz``, ``labels/...`` and
thirteen organs, AbdomenCT-1K ``imagesTr/Case_00001_0000.nii.gz``, ``labels/Case_00001.nii.gz`` and
a ``dataset.json``. A case is a patient. Headers point in several directions, as the collections
that FLARE is made of do. Labeled data of FLARE is one training set; which part a case is in is
only in ``split.json``.

Axes point to the patient's left, back and top, in mm; x = 0 is the midline, z = 0 the level of
the pancreas.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from datamodules.phantom.posterior import Annotation, Floats, Layer, stream
from datamodules.phantom.shapes import (
    FAR,
    Ellipsoid,
    Grid,
    Shape,
    Tube,
    box_about,
    grid_points,
    paint,
    smooth_field,
    warped,
)
from datamodules.phantom.writer import Files, Patient, Phantom, PhantomSettings, Scan

FIELD_OF_VIEW_MM = (350.0, 400.0)
COVERAGE_MM = (195.0, 235.0)  # height of a scan
SLICES_MM = (4.0, 5.0, 5.0)  # slice distances, one of which a scan has
FULL_SLICES_MM = (2.5, 2.5, 5.0)
ORIENTATIONS = ("LPS", "LPS", "RAS", "LAS", "LPI")  # axis codes of the files, one for each case
CORRELATION_MM = (6.0, 6.0, 4.0)
NOISE_HU = (8.0, 16.0)  # in slices of 5 mm
FLOOR, CEILING = -1024, 3071
TUBES = ("aorta", "postcava", "esophagus")  # "part of tubes" labels them on some slices only

# Signals are HU without contrast medium and in the portal venous phase. Labels are those of
# FLARE21 and of FLARE22. Organs are painted in this order: where two touch, the later one has
# the voxel, in the image and in the labels.
# fmt: off
ORGANS = (
    Shape("liver", (57, 114),
          (Ellipsoid((-66, -4, 26), (66, 80, 74)), Ellipsoid((8, -50, 46), (66, 30, 27))),
          minus=(Ellipsoid((10, 62, 20), (52, 52, 400)),),
          blend_mm=20, scale=0.06, labels=(1, 1), sigma_mm=1.2),
    Shape("spleen", (48, 120), (Ellipsoid((98, 28, 40), (26, 44, 47)),),
          move_mm=4, scale=0.07, labels=(3, 3), sigma_mm=1.1),
    Shape("stomach", (40, 84),
          (Tube(((58, 10, 66, 21), (70, -12, 50, 29), (58, -40, 24, 25), (30, -56, 2, 19),
                 (-22, -44, -2, 11))),),
          move_mm=3, scale=0.08, labels=(0, 11), sigma_mm=1.8),
    Shape("duodenum", (38, 78),
          (Tube(((-26, -38, -2, 11), (-56, -6, -20, 12.5), (-54, 0, -42, 12.5), (-36, 2, -58, 12),
                 (22, -4, -54, 11), (36, -14, -38, 10))),),
          move_mm=3, scale=0.06, labels=(0, 12), sigma_mm=2.0),
    Shape("right kidney", (32, 182), (Ellipsoid((-61, 44, -18), (28, 29, 54)),),
          minus=(Ellipsoid((-40, 39, -18), (17, 9, 20)),),
          move_mm=4, scale=0.05, labels=(2, 2), sigma_mm=1.0),
    Shape("left kidney", (32, 182), (Ellipsoid((61, 44, -4), (28, 29, 54)),),
          minus=(Ellipsoid((40, 39, -4), (17, 9, 20)),),
          move_mm=4, scale=0.05, labels=(2, 13), sigma_mm=1.0),
    Shape("pancreas", (38, 92),
          (Tube(((-34, -2, -36, 11), (-30, -4, -18, 15), (-16, -9, -2, 12), (6, -13, 6, 9.5),
                 (32, -6, 14, 11), (78, 22, 34, 9))),),
          move_mm=3, scale=0.07, labels=(4, 4), sigma_mm=1.8),
    Shape("postcava", (40, 128),
          (Tube(((-15, 26, -150, 10), (-18, 25, -20, 11), (-21, 17, 30, 12), (-20, -6, 96, 12))),),
          move_mm=3, scale=0.07, labels=(0, 6), sigma_mm=1.2),
    Shape("aorta", (40, 146),
          (Tube(((22, 40, 150, 11.5), (16, 30, 70, 11), (8, 23, 0, 9.5), (3, 24, -150, 8.5))),),
          move_mm=3, scale=0.1, labels=(0, 5), sigma_mm=0.8),
    Shape("esophagus", (38, 70),
          (Tube(((4, 18, 150, 8.5), (8, 12, 96, 8.5), (22, 8, 78, 8.5), (44, 8, 70, 9.5))),),
          move_mm=3, labels=(0, 10), sigma_mm=1.2),
    Shape("gallbladder", (10, 13),
          (Tube(((-46, -60, -22, 11), (-40, -44, -8, 13), (-32, -28, 8, 5))),),
          move_mm=3, scale=0.1, labels=(0, 9), sigma_mm=0.9),
    Shape("right adrenal", (24, 72),
          (Tube(((-44, 47, 28, 3.4), (-34, 33, 40, 5.2), (-29, 49, 27, 3.4))),),
          move_mm=3, labels=(0, 7), sigma_mm=1.0),
    Shape("left adrenal", (24, 72),
          (Tube(((48, 45, 22, 3.6), (37, 30, 34, 5.4), (30, 45, 20, 3.6))),),
          move_mm=3, labels=(0, 8), sigma_mm=1.0),
)

INSIDE = Ellipsoid((0, 0, 0), (134, 96, 1000))  # of the body wall
BODY = (  # in the order in which they are painted under the organs
    Shape("fat under the skin", (-105, -105), (Ellipsoid((0, 0, 0), (163, 124, 1000)),),
          scale=0.02),
    Shape("muscle", (52, 66), (Ellipsoid((0, 0, 0), (146, 108, 1000)),)),
    Shape("fat inside", (-98, -98), (INSIDE,)),
    Shape("muscles of the back", (52, 66),
          (Ellipsoid((33, 86, 0), (29, 21, 1000)),
           Tube(((26, 50, 40, 4), (34, 54, -10, 13), (50, 46, -140, 22)))),
          mirrored=True, blend_mm=1),
    Shape("colon", (40, 60),
          (Tube(((-98, 8, -150, 24), (-100, 6, -30, 20), (-88, -18, -14, 17))),
           Tube(((-88, -18, -14, 17), (0, -70, -38, 15), (60, -60, -20, 14))),
           Tube(((60, -60, -20, 14), (106, 14, 2, 13), (104, 18, -150, 14)))),
          blend_mm=4, move_mm=4, scale=0.1),
    Shape("lungs", (-845, -845), (Ellipsoid((68, -2, 120), (55, 82, 78)),),
          mirrored=True, move_mm=2),
    Shape("heart", (45, 120), (Ellipsoid((22, -40, 122), (58, 42, 38)),), move_mm=3),
    Shape("vertebrae", (210, 230), (Ellipsoid((0, 55, 0), (22, 17, 1000)),)),
    Shape("arches", (420, 420), (Ellipsoid((0, 82, 0), (15, 17, 1000)),)),
    Shape("canal", (25, 25), (Ellipsoid((0, 78, 0), (10, 8.5, 1000)),)),
)
# fmt: on


INNER = {"liver": 25, "right kidney": -45, "left kidney": -45}  # HU more in vessels and pyramids


@dataclass(frozen=True)
class Layout:
    """Names of a release.

    Args:
        images: Folder of the images.
        labels: Folder of the labels.
        case: Pattern of a case's name.
        first: Number of the first case.
        ending: What follows the case in an image's name.
    """

    images: str
    labels: str
    case: str
    first: int
    ending: str = "_0000"


_NEW, _1K = "FLARE22_Tr_{:04d}", "Case_{:05d}"
LAYOUTS = {  # the releases' own folders, and imagesTr and labelsTr as copies have them
    "2021": Layout("FLARE21/TrainingImg", "FLARE21/TrainingMask", "train_{:03d}", 0),
    "2022": Layout("FLARE22_LabeledCase50/images", "FLARE22_LabeledCase50/labels", _NEW, 1),
    "1k": Layout("AbdomenCT-1K/imagesTr", "AbdomenCT-1K/labels", _1K, 1),
    "2021-nnunet": Layout("FLARE21/imagesTr", "FLARE21/labelsTr", "train_{:03d}", 0, ""),
    "2022-nnunet": Layout("FLARE22Train/imagesTr", "FLARE22Train/labelsTr", _NEW, 1),
    "1k-nnunet": Layout("AbdomenCT-1K/imagesTr", "AbdomenCT-1K/labelsTr", _1K, 1),
}


def render(
    grid: Grid,
    organs: Sequence[Shape],
    *,
    spacing: Sequence[float],
    contrast: bool,
    noise_hu: float,
    rng: np.random.Generator,
) -> Floats:
    """Return the CT ``(X, Y, Z)`` in HU; it knows no annotator."""
    phase, pixel = int(contrast), spacing[0]
    shape = np.broadcast_shapes(*(axis.shape for axis in grid.axes))
    image = np.full((1, *shape), -1000, dtype=np.float32)
    texture, loops = smooth_field(shape, spacing, 4.5, rng), smooth_field(shape, spacing, 14, rng)
    for row in BODY:
        level, box = grid.level(row.varied(rng))
        part = image[:, *box]
        if row.name in ("colon", "lungs"):
            level = np.maximum(level, INSIDE.level(grid.within(box)) + 4)
        paint(part, row.signal[phase] + 8 * texture[box], level, pixel)
        if row.name == "fat inside":
            _bowel(image, grid, loops, phase, pixel)
        elif row.name == "colon":  # stool and gas
            paint(part, 10 + 30 * loops[box], level + 3, pixel)
            paint(part, -880, np.maximum(level + 4, 8 * (0.6 - loops[box])), pixel)
    _ribs(image, grid, pixel)
    for organ in organs:
        level, box = grid.level(organ)
        part = image[:, *box]
        value = organ.signal[phase] + rng.normal(0, 7) + 6 * texture[box]
        paint(part, -70, level - 1, pixel)  # fat about each organ
        paint(part, value, level, pixel)
        if organ.name == "stomach":  # liquid, and gas in front of it
            paint(part, 24, level + 4.5, pixel)
            paint(part, -940, np.maximum(level + 4.5, grid.within(box)[1] + 52), pixel)
        elif organ.name in INNER:
            inner = np.maximum(level + 7, 9 * (1.2 - loops[box]))
            paint(part, value + INNER[organ.name] * phase, inner, pixel)
    volume = gaussian_filter(image[0], (0.45, 0.45, 0.33), mode="nearest")
    noise = rng.standard_normal(shape, dtype=np.float32)
    noise = gaussian_filter(noise, (0.6, 0.6, 0), mode="wrap")
    volume += noise * np.float32(noise_hu * (5 / spacing[2]) ** 0.5 / noise.std())
    x, y, _ = grid_points(shape, spacing)
    volume[np.broadcast_to(np.hypot(x, y) > pixel * shape[0] / 2, shape)] = FLOOR
    return np.clip(np.rint(volume), FLOOR, CEILING)


def _bowel(image: Floats, grid: Grid, loops: Floats, phase: int, pixel: float) -> None:
    """Paint loops of small bowel, packed with fat between, in the lower half."""
    room = Ellipsoid((0, -35, -95), (92, 48, 90)).level(grid.points)
    level = np.maximum(room, (0.5 - np.abs(loops)) * 14)
    paint(image, 45 + 45 * phase, level, pixel)
    paint(image, np.where(loops > 0, np.float32(40), np.float32(18)), level + 2.2, pixel)
    paint(image, -930, np.maximum(level + 4, 20 * (1.3 - loops)), pixel)


def _ribs(image: Floats, grid: Grid, pixel: float) -> None:
    """Paint ribs in the body wall: they run down from the back to the front."""
    _, y, z = grid.points
    step = np.abs(np.mod(z + 0.45 * y + 500, 26) - 13) - 5
    wall = np.abs(INSIDE.level(grid.points) - 6) - 4
    level = np.maximum(np.maximum(step, wall), 35 - z - 0.3 * y)
    paint(image, 330, level, pixel)


def annotate(
    organs: Sequence[Shape],
    grid: Grid,
    *,
    spacing: tuple[float, float, float],
    settings: PhantomSettings,
    tube_slices: tuple[int, int] | None,
) -> Annotation:
    r"""Return the annotation of the organs that the release labels.

    The organs are painted one after the other, see :mod:`datamodules.phantom.posterior`: with the
    probabilities :math:`q_k` of being inside the drawn boundary of organ k,
    :math:`P(k) = q_k \prod_{j > k} (1 - q_j)`, the product over those painted later. Both
    kidneys have one label in FLARE21; their probabilities add up.

    Args:
        organs: The organs.
        grid: Where the voxels are.
        spacing: Voxel size, mm.
        settings: Settings of release and annotator.
        tube_slices: First slice and one past the last on which the tubes are labeled, or None
            for all.
    """
    layers = []
    thirteen = settings.release.startswith("2022")
    for organ in organs:
        label, sigma = organ.labels[thirteen], organ.sigma_mm * settings.sigma_scale
        if not label:
            continue
        level, box = grid.level(organ)
        if organ.name in TUBES and tube_slices is not None:
            slices = np.arange(box[2].start, box[2].stop)
            labeled = (slices >= tube_slices[0]) & (slices < tube_slices[1])
            level = np.where(labeled, level, np.float32(FAR))
        near = box_about(level, 8 * sigma)
        i, j, k = (
            slice(whole.start + part.start, whole.start + part.stop)
            for whole, part in zip(box, near, strict=True)
        )
        layers.append(Layer(label, level[near], (i, j, k), sigma))
    x, y, z = (axis.size for axis in grid.axes)
    return Annotation(
        layers=layers,
        shape=(x, y, z),
        spacing=spacing,
        num_classes=14 if thirteen else 5,
        correlation_mm=CORRELATION_MM,
        bias_share=settings.bias_share,
    )


def make_case(
    patient: Patient, settings: PhantomSettings, *, seed: int = 0
) -> tuple[Floats, Annotation]:
    """Draw CT ``(X, Y, Z)`` and annotation of a patient; other patients do not matter."""
    rng = stream(seed, patient.number, "anatomy")
    pixels = max(32, round((512 if settings.full_size else 128) / settings.coarsen))
    extent = float(rng.uniform(*FIELD_OF_VIEW_MM))
    step = float(rng.choice(FULL_SLICES_MM if settings.full_size else SLICES_MM)) * settings.coarsen
    slices = round(float(rng.uniform(*COVERAGE_MM)) / step)
    spacing = (round(extent / pixels, 4), round(extent / pixels, 4), step)
    x, y, z = grid_points((pixels, pixels, slices), spacing)
    axes = x, y + np.float32(8), z + np.float32(rng.uniform(-4, 22))
    scale = rng.normal(1, 0.045, 3).clip(0.9, 1.1)
    scale[0] = min(scale[0], (extent / 2 - 4) / 163)  # the body fits in the field of view
    warp = stream(seed, patient.number, "warp")
    grid = Grid(axes, warped(axes, scale.tolist(), (4, 4, 5), length=38, spacing=spacing, rng=warp))
    organs = [organ.varied(rng) for organ in ORGANS]
    low, high = rng.uniform((0.05, 0.7), (0.3, 0.95))
    tubes = "part of tubes" in patient.quirks and settings.release.startswith("2022")
    image = render(
        grid,
        organs,
        spacing=spacing,
        contrast="plain" not in patient.quirks,
        noise_hu=float(rng.uniform(*NOISE_HU)) * settings.noise_scale,
        rng=stream(seed, patient.number, "image"),
    )
    return image, annotate(
        organs,
        grid,
        spacing=spacing,
        settings=settings,
        tube_slices=(round(low * slices), round(high * slices)) if tubes else None,
    )


def draw(patient: Patient, settings: PhantomSettings, seed: int) -> tuple[list[Scan], Files]:
    """Draw the case of a patient."""
    layout, name = LAYOUTS[settings.release], patient.name
    image, annotation = make_case(patient, settings, seed=seed)
    rng = stream(seed, patient.number, "header")
    x, y, z = annotation.spacing
    affine = np.diag([-x, -y, z, 1.0])
    middle = [(n - 1) / 2 * s for n, s in zip(annotation.shape, annotation.spacing, strict=True)]
    affine[:3, 3] = np.array([middle[0], middle[1], -middle[2] - 300]) + rng.normal(0, 12, 3)
    affine[:3, 3] = affine[:3, 3].round(2)
    scan = Scan(
        name=name,
        images={f"{layout.images}/{name}{layout.ending}.nii.gz": image.astype(np.int16)},
        label=f"{layout.labels}/{name}.nii.gz",
        annotation=annotation,
        affine=affine,
        axes=ORIENTATIONS[(patient.number - 1) % len(ORIENTATIONS)],
    )
    return [scan], {}


def _dataset_json(patients: Sequence[Patient], settings: PhantomSettings, seed: int) -> Files:
    """Return the ``dataset.json`` of AbdomenCT-1K: keys and names as nnU-Net had them first."""
    if not settings.release.startswith("1k"):
        return {}
    labels = Path(LAYOUTS[settings.release].labels).name
    content = {
        "name": "AbdomenCT-1K",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "kidney", "3": "spleen", "4": "pancreas"},
        "numTraining": len(patients),
        "numTest": 0,
        "training": [
            {"image": f"./imagesTr/{p.name}.nii.gz", "label": f"./{labels}/{p.name}.nii.gz"}
            for p in patients
        ],
        "test": [],
    }
    return {"AbdomenCT-1K/dataset.json": json.dumps(content, indent=1) + "\n"}


def _name(release: str, number: int) -> str:
    return LAYOUTS[release].case.format(number - 1 + LAYOUTS[release].first)


FLARE = Phantom(
    dataset="flare",
    title="FLARE",
    version=2,
    releases=tuple(LAYOUTS),
    patients={"train": 16, "val": 4, "test": 6},
    quirks={"plain": 0.25, "part of tubes": 0.3},
    name=_name,
    draw=draw,
    lists=_dataset_json,
)
