"""A glioma phantom in the on-disk layout of BraTS (Baid et al., arXiv 2107.02314, 2021).

::

    root/
      RSNA_ASNR_MICCAI_BraTS2021_TrainingData/
        BraTS2021_00000/    BraTS2021_00000_{flair,t1,t1ce,t2,seg}.nii.gz
      posterior/BraTS2021_00000/BraTS2021_00000.npz     the labels' probabilities
      phantom.json          marks the folder as a phantom; seed, version, settings
      split.json            {"train": [...], "val": [...], "test": [...]}

Other releases have other folders and names: ``HGG/`` and ``LGG/`` in 2018 and 2019, two lists as
CSV in 2020, hyphens and other names of the modalities in 2023 and 2024. There a folder is a time
point of a patient, ``BraTS-GLI-00000-000``, some patients have two, and ``split.json`` and
``posterior/`` name the patient, ``BraTS-GLI-00000``.

The rows of a posterior are the classes background, necrosis, edema, enhancing tumor (and the
resection cavity in 2024), with the label values of each release. Labeled data of BraTS is one
training set; which part a patient is in is only in ``split.json``.

Axes point to the patient's left, back and top, in mm from the middle of the grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from datamodules.phantom.posterior import Annotation, Floats, Layer, stream
from datamodules.phantom.shapes import (
    FAR,
    Ellipsoid,
    Grid,
    Shape,
    Triple,
    Tube,
    box_about,
    grid_points,
    paint,
    smooth_field,
    textured,
    warped,
)
from datamodules.phantom.writer import Files, Patient, Phantom, PhantomSettings, Scan

NECROSIS, EDEMA, ENHANCING, CAVITY = 1, 2, 3, 4
MODALITIES = ("t1", "t1ce", "t2", "flair")
SIGMA_MM = (1.8, 1.4, 1.1)  # of the whole tumor, of its core, of the enhancing part and the cavity
CORRELATION_MM = 5.0
SATELLITE_PI = 0.5  # probability that an annotator outlines a satellite
FOLDERS = {
    "2018": "MICCAI_BraTS_2018_Data_Training",
    "2019": "MICCAI_BraTS_2019_Data_Training",
    "2020": "MICCAI_BraTS2020_TrainingData",
    "2021": "RSNA_ASNR_MICCAI_BraTS2021_TrainingData",
    "2023": "ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData",
    "2024": "training_data1",
}
_NEW_NAMES = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f", "seg": "seg"}

# Signals on T1, T1 after contrast, T2 and FLAIR, relative to white matter.
GRAY = (0.76, 0.78, 1.42, 1.22)
WHITE = (1.0, 1.0, 1.0, 1.0)
LIQUOR = (0.32, 0.33, 3.20, 0.22)
VESSEL = (0.55, 1.90, 0.60, 0.60)
LESION: Mapping[str, tuple[float, ...]] = {
    "edema": (0.68, 0.70, 2.15, 1.90),
    "necrosis": (0.48, 0.50, 2.90, 1.05),
    "low grade": (0.60, 0.62, 2.60, 1.65),
    "enhancing": (0.68, 1.85, 1.75, 1.50),
}

# fmt: off
CEREBRUM = Shape(
    "cerebrum", GRAY,
    (Ellipsoid((0, 0, 10), (66, 84, 52)), Ellipsoid((43, -2, -20), (20, 40, 20))),
    mirrored=True)
HINDBRAIN = Shape(
    "cerebellum and stem", (0.85, 0.86, 1.25, 1.12),
    (Ellipsoid((20, 42, -31), (31, 31, 23)),
     Tube(((0, 14, -4, 15), (0, 10, -26, 15), (0, 20, -50, 11), (0, 30, -80, 9)))),
    mirrored=True)
DEEP = (  # in the order in which they are painted over the white matter
    Shape("nuclei", (0.84, 0.86, 1.22, 1.14),
          (Ellipsoid((11, 10, 6), (8.5, 14, 9)), Ellipsoid((25.5, -3, 3), (6.5, 17, 10))),
          mirrored=True, blend_mm=1),
    Shape("cleft", LIQUOR, (Ellipsoid((0, 0, 48), (1.3, 84, 36)),)),
    Shape("ventricles", LIQUOR,
          (Tube(((6, -34, 6, 3.5), (9, 0, 18, 5.5), (14, 20, 18, 6), (22, 32, 8, 7),
                 (24, 56, 4, 2))),
           Tube(((22, 32, 8, 5.5), (33, 18, -10, 3.2), (32, -8, -20, 2.2))),
           Ellipsoid((0, 4, 0), (1.8, 17, 11))),
          mirrored=True, blend_mm=2, scale=0.25),
)
# fmt: on


def patient_name(release: str, number: int) -> str:
    """Return the name of patient ``number`` (from 1) as ``release`` forms it."""
    if release in ("2018", "2019"):
        code = "".join(chr(65 + number // 26**k % 26) for k in (2, 1, 0))
        sites = (
            f"2013_{number}_1",
            f"CBICA_{code}_1",
            f"TCIA{number % 8 + 1:02d}_{100 + number}_1",
        )
        return f"{'Brats18' if release == '2018' else 'BraTS19'}_{sites[number % 3]}"
    if release == "2020":
        return f"BraTS20_Training_{number:03d}"
    identifier = (number - 1) * 3 // 2  # 0, 1, 3, 4, 6: some numbers are missing
    return f"BraTS2021_{identifier:05d}" if release == "2021" else f"BraTS-GLI-{identifier:05d}"


@dataclass(frozen=True)
class Growth:
    """What kind of tumor a patient has, and where.

    Args:
        kind: ``ring`` has a necrotic core and an enhancing rim, ``solid`` enhances throughout,
            ``low grade`` does not enhance.
        center: Middle of the core, mm.
        core_mm: Radius of the core as a ball of the same volume.
        whole_mm: Radius of the whole tumor, likewise.
        stretch: Semi-axes relative to the radius.
        rim_mm: Mean thickness of the enhancing rim.
        satellite: Middle of a patch of faint edema, or None.
        cavity: Whether part of the core was resected.
    """

    kind: str
    center: Triple
    core_mm: float
    whole_mm: float
    stretch: Triple
    rim_mm: float
    satellite: Triple | None
    cavity: bool

    def ball(self, radius: float) -> Shape:
        """Return an ellipsoid about the center with the volume of a ball of ``radius`` mm."""
        a, b, c = (radius * s for s in self.stretch)
        return Shape("tumor", (), (Ellipsoid(self.center, (a, b, c)),))


def draw_growth(
    patient: Patient, visit: int, settings: PhantomSettings, rng: np.random.Generator
) -> Growth:
    """Draw a tumor that lies in one hemisphere; a later ``visit`` shows the same, grown."""
    kind = next((kind for kind in ("low grade", "solid") if kind in patient.quirks), "ring")
    core = float(np.exp(rng.normal(np.log(17.5), 0.25)).clip(9, 28))
    core = min(0.75 * core, 14.0) if kind == "solid" else core
    whole = core + float(rng.uniform(3, 7) if kind == "low grade" else rng.uniform(6, 13))
    stretch = np.exp(rng.normal(0, 0.14, 3))
    side = float(rng.choice((-1.0, 1.0)))
    # Candidates all at once: the draws are the same number, whichever is taken.
    places = rng.uniform((10, -46, -14), (50, 50, 44), (2, 400, 3)) * (side, 1, 1)
    x, y, z = np.moveaxis(places.astype(np.float32), -1, 0)[..., None]
    depth = -CEREBRUM.level((x, y, z))[..., 0]
    inside = places[0][depth[0] > 0.85 * core + 3]
    first = inside[0] if len(inside) else np.array([30.0 * side, 0, 14])
    far = np.linalg.norm(places[1] - first, axis=1) > whole + 14
    apart = places[1][far & (depth[1] > 11)]
    satellite = "satellite" in patient.quirks and len(apart) > 0
    return Growth(
        kind=kind,
        center=_triple(first),
        core_mm=core * (1 + 0.15 * visit),
        whole_mm=whole * (1 + 0.15 * visit),
        stretch=_triple(stretch / stretch.prod() ** (1 / 3)),
        rim_mm=float(rng.uniform(3.5, 6.0)),
        satellite=_triple(apart[0]) if satellite else None,
        cavity=settings.release == "2024" and "cavity" in patient.quirks,
    )


def _triple(values: np.ndarray) -> Triple:
    x, y, z = values.tolist()
    return x, y, z


@dataclass(frozen=True)
class Brain:
    """Level sets of what the tumor grows in, on the grid.

    Args:
        grid: Where the voxels are.
        surface: The brain as a whole.
        white: White matter, cerebellum and stem.
        deep: Nuclei, cleft and ventricles of this patient.
        mask: What the stripping of the skull leaves.
    """

    grid: Grid
    surface: Floats
    white: Floats
    deep: Sequence[Shape]
    mask: np.ndarray


@dataclass(frozen=True)
class Tumor:
    """Level sets of the tumor on the grid.

    Args:
        whole: Whole tumor; what of it is outside the core is edema.
        core: Core; what of it does not enhance is necrosis or non-enhancing tumor.
        enhancing: Enhancing part, where it is in the core; None if nothing enhances.
        satellite: Patch of faint edema, or None.
        cavity: Resection cavity, or None.
    """

    whole: Floats
    core: Floats
    enhancing: Floats | None
    satellite: Floats | None
    cavity: Floats | None


def find_brain(shape: Sequence[int], spacing: Sequence[float], rng: np.random.Generator) -> Brain:
    """Draw a patient's brain: the gray matter has the same thickness but for deep folds."""
    axes = grid_points(shape, spacing)
    scale = rng.normal(1, 0.03, 3).clip(0.93, 1.07).tolist()
    grid = Grid(axes, warped(axes, scale, (2.0, 2.5, 2.0), length=30, spacing=spacing, rng=rng))
    cerebrum, behind = CEREBRUM.level(grid.points), HINDBRAIN.level(grid.points)
    surface = np.minimum(cerebrum, behind)
    fold = smooth_field(shape, spacing, 7, rng)
    return Brain(
        grid=grid,
        surface=surface,
        white=cerebrum + 4 + 7 * np.clip(fold + 0.3, 0, 1.5),
        deep=[row.varied(rng) for row in DEEP],
        mask=surface < 0.5 + 0.9 * smooth_field(shape, spacing, 14, rng),
    )


def find_tumor(
    growth: Growth, brain: Brain, *, spacing: Sequence[float], rng: np.random.Generator
) -> Tumor:
    """Draw the tumor's outlines.

    The core lies in the whole tumor; the enhancing rim is what of the core is nearer to its
    surface than the rim is thick, and the rim is thin here and thick there, with gaps. Edema
    avoids the gray matter, which makes its outline fingered.
    """
    points, grid = brain.grid.axes, brain.surface.shape

    def field(length: float) -> Floats:
        return smooth_field(grid, spacing, length, rng)

    lump, grain, spread, rim, inner, patch = map(field, (13, 5, 16, 9, 10, 8))
    core = growth.ball(growth.core_mm).level(points) + 0.16 * growth.core_mm * lump + 0.9 * grain
    core = np.maximum(core, brain.surface + 2)
    gray = np.clip(brain.white / 2, 0, 1)
    edema = growth.ball(growth.whole_mm).level(points) + 1.2 * grain
    edema = edema + 0.24 * growth.whole_mm * spread + (5 + 0.12 * growth.whole_mm) * gray
    whole = np.minimum(np.maximum(edema, brain.surface + 1), core - 1)
    enhancing = satellite = cavity = None
    if growth.kind == "ring":
        enhancing = -core - growth.rim_mm * (1 + 0.45 * rim) + 1.2 * inner
    elif growth.kind == "solid":
        enhancing = np.full(grid, -FAR, dtype=np.float32)
    if growth.satellite is not None:
        ball = Ellipsoid(growth.satellite, (8.5, 9.5, 7.5)).level(points)
        satellite = ball + 1.6 * patch + 3 * gray
    if growth.cavity:
        size = growth.core_mm
        x, y, z = growth.center
        center = (x + 0.25 * size * float(np.sign(x)), y + 0.1 * size, z)
        radii = (0.62 * size,) * 3
        cavity = Ellipsoid(center, radii).level(points) + 0.08 * size * inner
    return Tumor(whole, core, enhancing, satellite, cavity)


def render(
    brain: Brain,
    tumor: Tumor,
    growth: Growth,
    *,
    spacing: Sequence[float],
    settings: PhantomSettings,
    rng: np.random.Generator,
) -> Floats:
    """Return the images ``(4, X, Y, Z)`` of :data:`MODALITIES`; they know no annotator."""
    shape, voxel = brain.surface.shape, 1.1 * spacing[0]

    def field(length: float) -> Floats:
        return smooth_field(shape, spacing, length, rng)

    def signal(values: Sequence[float], texture: Floats | float = 1.0) -> Floats:
        return textured(np.array(values) * np.exp(rng.normal(0, 0.05, 4)), texture)

    image = np.empty((4, *shape), dtype=np.float32)
    image[:] = signal(LIQUOR)
    fold, grain, patches = field(5), field(3.5), field(7)
    paint(image, signal(GRAY), np.maximum(brain.surface + 1, 1.5 * (fold - 1.2)), voxel)
    paint(image, signal(WHITE), brain.white, 1.3 * voxel)
    for row in (HINDBRAIN, *brain.deep):
        level, box = brain.grid.level(row)
        texture = 1 + 0.06 * fold[box] if row is HINDBRAIN else 1.0
        paint(image[:, *box], signal(row.signal, texture), level + 0.8, voxel)
    vessel = np.maximum(np.abs(brain.surface + 2) - 2, 8 * (1.75 - field(4)))
    paint(image, signal(VESSEL), vessel, voxel)

    paint(image, signal(LESION["edema"], 1 + 0.05 * patches), tumor.whole, 1.6 * voxel)
    if tumor.satellite is not None:
        faint = 0.45 * image + 0.55 * signal(LESION["edema"])
        paint(image, faint, tumor.satellite, 3 * voxel)
    core = LESION["low grade" if growth.kind == "low grade" else "necrosis"]
    paint(image, signal(core, 1 + 0.05 * patches + 0.04 * grain), tumor.core, voxel)
    if tumor.enhancing is not None:
        rim = np.maximum(tumor.enhancing, tumor.core)
        paint(image, signal(LESION["enhancing"], 1 + 0.08 * grain), rim, voxel)
    if tumor.cavity is not None:
        paint(image, signal(LIQUOR), tumor.cavity, voxel)
    image *= 1 + 0.012 * field(6)

    for m, name in enumerate(MODALITIES):
        volume = gaussian_filter(image[m], 0.35) * np.exp(field(55) * rng.uniform(0.03, 0.10))
        if rng.random() < 0.3 and name in ("t2", "flair"):  # acquired in thick slices
            volume = gaussian_filter1d(volume, 1.6 / spacing[2], axis=2)
        noise = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 0.45)
        noise *= settings.noise_scale * rng.uniform(0.02, 0.05) / noise.std()
        gain = np.exp(rng.uniform(np.log(150), np.log(900)))
        image[m] = np.where(brain.mask, np.maximum((volume + noise) * gain, 1), 0)
    return np.clip(np.rint(image), 0, np.iinfo(np.int16).max)


def annotate(
    tumor: Tumor, mask: np.ndarray, spacing: Triple, settings: PhantomSettings
) -> Annotation:
    r"""Return the annotation of the ``tumor``; outside ``mask`` nothing is ever outlined.

    Whole tumor, core over it, enhancing part over the core alone. With the probabilities
    :math:`q_W, q_T, q_E` of being inside the drawn boundaries this gives

    .. math::
        P(\mathrm{edema}) = (1 - q_T) q_W, \quad P(\mathrm{necrosis}) = q_T (1 - q_E), \quad
        P(\mathrm{enhancing}) = q_T q_E, \quad P(\mathrm{background}) = (1 - q_T)(1 - q_W),

    see :mod:`datamodules.phantom.posterior`; a satellite of edema, outlined with probability
    :math:`\pi`, and a cavity, painted last, enter as further layers.
    """
    whole, core, enhancing = (sigma * settings.sigma_scale for sigma in SIGMA_MM)
    rows = (  # label, level, sd, chance, what it is painted over
        (EDEMA, tumor.whole, whole, 1.0, None),
        (EDEMA, tumor.satellite, whole, SATELLITE_PI, None),
        (NECROSIS, tumor.core, core, 1.0, None),
        (ENHANCING, tumor.enhancing, enhancing, 1.0, NECROSIS),
        (CAVITY, tumor.cavity, enhancing, 1.0, None),
    )
    layers = []
    for label, level, sigma, chance, over in rows:
        if level is None:
            continue
        near = mask if over is None else mask & (tumor.core < 8 * core)
        level = np.where(near, level, np.float32(FAR)).astype(np.float32)
        box = box_about(level, 8 * sigma)
        layers.append(Layer(label, level[box], box, sigma, chance, over))
    return Annotation(
        layers=layers,
        shape=(mask.shape[0], mask.shape[1], mask.shape[2]),
        spacing=spacing,
        num_classes=5 if settings.release == "2024" else 4,
        correlation_mm=(CORRELATION_MM,) * 3,
        bias_share=settings.bias_share,
    )


def make_case(
    patient: Patient, settings: PhantomSettings, *, visit: int = 0, seed: int = 0
) -> tuple[Floats, Annotation, Growth]:
    """Draw images ``(4, X, Y, Z)`` and annotation of a visit; other patients do not matter."""
    size = (1.0 if settings.full_size else 2.0) * settings.coarsen
    spacing = (size, size, size)
    extent = (240, 240, 155) if settings.full_size else (160, 192, 144)
    shape = [round(n / size) for n in extent]
    number = patient.number
    growth = draw_growth(patient, visit, settings, stream(seed, number, "growth"))
    brain = find_brain(shape, spacing, stream(seed, number, "brain"))
    tumor = find_tumor(growth, brain, spacing=spacing, rng=stream(seed, number, "tumor"))
    rng = stream(seed, number, f"images {visit}")
    images = render(brain, tumor, growth, spacing=spacing, settings=settings, rng=rng)
    return images, annotate(tumor, brain.mask, spacing, settings), growth


def draw(patient: Patient, settings: PhantomSettings, seed: int) -> tuple[list[Scan], Files]:
    """Draw the visits of a patient; x and y are reversed with respect to RAS, as in BraTS."""
    release = settings.release
    new = release >= "2023"
    home = FOLDERS[release]
    if release in ("2018", "2019"):
        home = f"{home}/{grade(patient)}"
    scans = []
    for visit in range(2 if new and "second visit" in patient.quirks else 1):
        images, annotation, _ = make_case(patient, settings, visit=visit, seed=seed)
        name = f"{patient.name}-{visit:03d}" if new else patient.name
        size = annotation.spacing[0]
        affine = np.diag([-size, -size, size, 1.0])
        affine[1, 3] = (annotation.shape[1] - 1) * size
        paths = {
            key: f"{home}/{name}/{name}{f'-{new_key}' if new else f'_{key}'}.nii.gz"
            for key, new_key in _NEW_NAMES.items()
        }
        scans.append(
            Scan(
                name=name,
                images={
                    paths[m]: volume.astype(np.int16)
                    for m, volume in zip(MODALITIES, images, strict=True)
                },
                label=paths["seg"],
                annotation=annotation,
                affine=affine,
                values=None if new else (0, 1, 2, 4),  # until 2021 enhancing tumor is 4
            )
        )
    return scans, {}


def grade(patient: Patient) -> str:
    """Return HGG or LGG: what does not enhance is called low grade."""
    return "LGG" if "low grade" in patient.quirks else "HGG"


def lists(patients: Sequence[Patient], settings: PhantomSettings, seed: int) -> Files:
    """Return the CSV lists of BraTS 2020: name mapping and survival of the high grades."""
    if settings.release != "2020":
        return {}
    years = ("BraTS_2017", "BraTS_2018", "TCGA_TCIA", "BraTS_2019", "BraTS_2020")
    names = [",".join(["Grade", *(f"{year}_subject_ID" for year in years)])]
    survival = ["Brats20ID,Age,Survival_days,Extent_of_Resection"]
    for patient in patients:
        older = patient_name("2019", patient.number) if patient.number % 2 else "NA"
        names.append(f"{grade(patient)},NA,NA,NA,{older},{patient.name}")
        rng = stream(seed, patient.number, "survival")
        age, days = rng.normal(61, 12), rng.exponential(420)
        extent = rng.choice(("GTR", "STR", "NA"))
        if grade(patient) == "HGG":
            survival.append(f"{patient.name},{age:.3f},{days + 5:.0f},{extent}")
    files = {"name_mapping": names, "survival_info": survival}
    return {f"{FOLDERS['2020']}/{name}.csv": "\n".join(rows) + "\n" for name, rows in files.items()}


BRATS = Phantom(
    dataset="brats",
    title="BraTS",
    version=2,
    releases=("2021", "2018", "2019", "2020", "2023", "2024"),
    patients={"train": 16, "val": 4, "test": 6},
    quirks={
        "low grade": 0.12,
        "solid": 0.06,
        "satellite": 0.25,
        "second visit": 0.2,
        "cavity": 0.6,
    },
    name=patient_name,
    draw=draw,
    lists=lists,
)
