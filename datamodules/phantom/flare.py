"""Write the abdominal phantom in the on-disk layout of FLARE (Ma et al., MedIA 82:102616, 2022).

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
that FLARE is made of do. Labelled data of FLARE is one training set; which part a case is in is
only in ``split.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np

from datamodules.phantom.flare_patient import make_abdomen
from datamodules.phantom.flare_settings import AbdomenPhantom
from datamodules.phantom.folder import check_arguments, chosen, save_nifti, write_folder
from datamodules.phantom.layers import draw_labels, posterior
from datamodules.phantom.random_field import stream
from datamodules.phantom.settings import checked_counts
from datamodules.reading.posterior import save_posterior

VERSION = 1  # of the construction: raised whenever the same settings give other files
DEFAULT_PATIENTS = {"train": 16, "val": 4, "test": 6}


@dataclass(frozen=True)
class Layout:
    """Names of a release.

    Args:
        images: Folder of the images.
        labels: Folder of the labels.
        case: Pattern of a case's name.
        first: Number of the first case.
        image_ending: What follows the case in an image's name.
    """

    images: str
    labels: str
    case: str
    first: int
    image_ending: str = "_0000"


LAYOUTS = {  # release, folders
    ("2021", "original"): Layout("FLARE21/TrainingImg", "FLARE21/TrainingMask", "train_{:03d}", 0),
    ("2021", "nnunet"): Layout("FLARE21/imagesTr", "FLARE21/labelsTr", "train_{:03d}", 0, ""),
    ("2022", "original"): Layout(
        "FLARE22_LabeledCase50/images", "FLARE22_LabeledCase50/labels", "FLARE22_Tr_{:04d}", 1
    ),
    ("2022", "nnunet"): Layout(
        "FLARE22Train/imagesTr", "FLARE22Train/labelsTr", "FLARE22_Tr_{:04d}", 1
    ),
    ("1k", "original"): Layout("AbdomenCT-1K/imagesTr", "AbdomenCT-1K/labels", "Case_{:05d}", 1),
    ("1k", "nnunet"): Layout("AbdomenCT-1K/imagesTr", "AbdomenCT-1K/labelsTr", "Case_{:05d}", 1),
}


@dataclass(frozen=True)
class Order:
    """A patient to be written."""

    number: int
    part: str
    name: str
    contrast: bool
    part_of_tubes: bool
    orientation: str


def write_flare_phantom(
    root: Path,
    *,
    patients: Mapping[str, int] = DEFAULT_PATIENTS,
    settings: AbdomenPhantom | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> None:
    """Write the phantom to ``root``, or leave it alone if it is there with the same settings.

    The files depend on ``patients``, ``settings`` and ``seed`` alone, not on ``workers``.

    Args:
        root: Folder to write.
        patients: Number of patients of each part: ``train``, ``val`` and ``test``.
        settings: Settings of anatomy, annotator, scan and layout; None takes the defaults.
        seed: Seed of every draw, >= 0.
        workers: Threads; None takes one for each usable core.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: ``root`` holds a phantom of other settings, or an argument is out of range.
        FileExistsError: ``root`` holds something else, or is a file.
        OSError: ``root`` cannot be written (permission, disk full); the message names it.
    """
    settings = AbdomenPhantom() if settings is None else settings
    counts = checked_counts(patients)
    check_arguments(seed, workers)
    orders = _orders(settings, counts, seed)
    write_folder(
        Path(root),
        orders,
        partial(_write_patient, settings=settings, seed=seed),
        card={
            "origin": "phantom",
            "dataset": "flare",
            "note": "Synthetic images and labels in FLARE's layout. They are not FLARE.",
            "version": VERSION,
            "seed": seed,
            "patients": counts,
            "settings": settings.as_json(),
        },
        split={part: [o.name for o in orders if o.part == part] for part in counts},
        extra=_dataset_json(orders, settings),
        title="Writing the FLARE phantom",
        workers=workers,
        progress=progress,
    )


def _orders(settings: AbdomenPhantom, counts: Mapping[str, int], seed: int) -> list[Order]:
    """Return the patients with what each of them has."""
    layout = LAYOUTS[settings.release, settings.folders]
    parts = [part for part, count in counts.items() for _ in range(count)]
    everyone = range(1, len(parts) + 1)
    rng = stream(seed, 0, "quirks")
    contrast = chosen(settings.contrast_fraction, everyone, rng)
    tubes = chosen(settings.tube_fraction, everyone, rng)
    turn = rng.permutation(len(parts)) % len(settings.orientations)
    return [
        Order(
            number=number,
            part=part,
            name=layout.case.format(number - 1 + layout.first),
            contrast=number in contrast,
            part_of_tubes=settings.release == "2022" and number in tubes,
            orientation=settings.orientations[turn[number - 1]],
        )
        for number, part in zip(everyone, parts, strict=True)
    ]


def _write_patient(root: Path, order: Order, *, settings: AbdomenPhantom, seed: int) -> None:
    """Write image, labels and posterior of one patient under ``root``."""
    layout = LAYOUTS[settings.release, settings.folders]
    patient = make_abdomen(
        settings,
        number=order.number,
        contrast=order.contrast,
        part_of_tubes=order.part_of_tubes,
        seed=seed,
    )
    case = patient.annotation
    labels = draw_labels(case, stream(seed, order.number, "labels"))
    images, masks = root / layout.images, root / layout.labels
    truth = root / "posterior" / order.name
    for folder in (images, masks, truth):
        folder.mkdir(parents=True, exist_ok=True)
    affine = _affine(case.shape, case.spacing, stream(seed, order.number, "header"))
    ornt = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("LPS"), nib.orientations.axcodes2ornt(order.orientation)
    )
    affine = affine @ nib.orientations.inv_ornt_aff(ornt, case.shape)

    def turned(volume: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(nib.orientations.apply_orientation(volume, ornt))

    image = turned(patient.image.astype(np.int16))
    save_nifti(images / f"{order.name}{layout.image_ending}.nii.gz", image, affine)
    save_nifti(masks / f"{order.name}.nii.gz", turned(labels), affine)
    probs = np.moveaxis(posterior(case), 0, -1)  # the classes last: they are not turned
    probs = np.moveaxis(nib.orientations.apply_orientation(probs, ornt), -1, 0)
    save_posterior(truth / f"{order.name}.npz", probs)


def _affine(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], rng: np.random.Generator
) -> np.ndarray:
    """Return the affine of an image whose axes point to left, back and top, in RAS mm."""
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    middle = [(n - 1) / 2 * s for n, s in zip(shape, spacing, strict=True)]
    shift = rng.normal(0, 12, 3).round(2)
    affine[:3, 3] = np.array([middle[0], middle[1], -middle[2] - 300.0]).round(2) + shift
    return affine


def _dataset_json(orders: list[Order], settings: AbdomenPhantom) -> dict[str, str]:
    """Return the ``dataset.json`` of AbdomenCT-1K: keys and names as nnU-Net had them first."""
    if settings.release != "1k":
        return {}
    layout = LAYOUTS[settings.release, settings.folders]
    labels = Path(layout.labels).name
    content = {
        "name": "AbdomenCT-1K",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "kidney", "3": "spleen", "4": "pancreas"},
        "numTraining": len(orders),
        "numTest": 0,
        "training": [
            {"image": f"./imagesTr/{o.name}.nii.gz", "label": f"./{labels}/{o.name}.nii.gz"}
            for o in orders
        ],
        "test": [],
    }
    return {"AbdomenCT-1K/dataset.json": json.dumps(content, indent=1) + "\n"}
