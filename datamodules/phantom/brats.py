"""Write the glioma phantom in the on-disk layout of BraTS (Baid et al., arXiv 2107.02314, 2021).

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

The rows of a posterior are the classes background, necrosis, oedema, enhancing tumour (and the
resection cavity in 2024), whatever values the release stores them as. Labelled data of BraTS is one
training set; which part a patient is in is only in ``split.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from datamodules.phantom.brats_patient import BrainCase, make_case
from datamodules.phantom.brats_render import MODALITIES
from datamodules.phantom.brats_settings import BrainPhantom
from datamodules.phantom.brats_tumour import Kind
from datamodules.phantom.folder import check_arguments, chosen, save_nifti, write_folder
from datamodules.phantom.layers import draw_labels, posterior
from datamodules.phantom.random_field import stream
from datamodules.phantom.settings import checked_counts
from datamodules.reading.posterior import save_posterior

VERSION = 1  # of the construction: raised whenever the same settings give other files
DEFAULT_PATIENTS = {"train": 16, "val": 4, "test": 6}
FOLDERS = {
    "2018": "MICCAI_BraTS_2018_Data_Training",
    "2019": "MICCAI_BraTS_2019_Data_Training",
    "2020": "MICCAI_BraTS2020_TrainingData",
    "2021": "RSNA_ASNR_MICCAI_BraTS2021_TrainingData",
    "2023": "ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData",
    "2024": "training_data1",
}
_NEW_NAMES = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f", "seg": "seg"}


@dataclass(frozen=True)
class Order:
    """A patient to be written."""

    number: int
    part: str
    kind: Kind
    satellite: bool
    cavity: bool
    visits: int
    release: str

    @property
    def name(self) -> str:
        """Name of the patient."""
        return patient_name(self.release, self.number)

    @property
    def grade(self) -> str:
        """HGG or LGG: what does not enhance is called low grade."""
        return "LGG" if self.kind == "non-enhancing" else "HGG"

    def case(self, visit: int) -> str:
        """Name of a case: folder and beginning of the file names."""
        return f"{self.name}-{visit:03d}" if self.release >= "2023" else self.name


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


def write_brats_phantom(
    root: Path,
    *,
    patients: Mapping[str, int] = DEFAULT_PATIENTS,
    settings: BrainPhantom | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> None:
    """Write the phantom to ``root``, or leave it alone if it is there with the same settings.

    The files depend on ``patients``, ``settings`` and ``seed`` alone, not on ``workers``.

    Args:
        root: Folder to write.
        patients: Number of patients of each part: ``train``, ``val`` and ``test``.
        settings: Settings of tumour, annotator, scan and layout; None takes the defaults.
        seed: Seed of every draw, >= 0.
        workers: Threads; None takes one for each usable core.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: ``root`` holds a phantom of other settings, or an argument is out of range.
        FileExistsError: ``root`` holds something else, or is a file.
        OSError: ``root`` cannot be written (permission, disk full); the message names it.
    """
    settings = BrainPhantom() if settings is None else settings
    counts = checked_counts(patients)
    check_arguments(seed, workers)
    orders = _orders(settings, counts, seed)
    write_folder(
        Path(root),
        orders,
        partial(_write_patient, settings=settings, seed=seed),
        card={
            "origin": "phantom",
            "dataset": "brats",
            "note": "Synthetic images and labels in BraTS's layout. They are not BraTS.",
            "version": VERSION,
            "seed": seed,
            "patients": counts,
            "settings": settings.as_json(),
        },
        split={part: [o.name for o in orders if o.part == part] for part in counts},
        extra=_lists(orders, settings, seed),
        title="Writing the BraTS phantom",
        workers=workers,
        progress=progress,
    )


def _orders(settings: BrainPhantom, counts: Mapping[str, int], seed: int) -> list[Order]:
    """Return the patients with what each of them has."""
    parts = [part for part, count in counts.items() for _ in range(count)]
    everyone = range(1, len(parts) + 1)
    rng = stream(seed, 0, "quirks")
    low_grade = chosen(settings.no_enhancing_fraction, everyone, rng)
    others = [number for number in everyone if number not in low_grade]
    solid = chosen(settings.no_necrosis_fraction, others, rng)
    satellite = chosen(settings.satellite_fraction, everyone, rng)
    again = chosen(settings.followup_fraction, everyone, rng)
    cavity = chosen(settings.cavity_fraction, everyone, rng)

    def kind(number: int) -> Kind:
        if number in low_grade:
            return "non-enhancing"
        return "solid" if number in solid else "ring"

    return [
        Order(
            number=number,
            part=part,
            kind=kind(number),
            satellite=number in satellite,
            cavity=settings.release == "2024" and number in cavity,
            visits=2 if settings.release >= "2023" and number in again else 1,
            release=settings.release,
        )
        for number, part in zip(everyone, parts, strict=True)
    ]


def _write_patient(root: Path, order: Order, *, settings: BrainPhantom, seed: int) -> None:
    """Write the folders and posteriors of one patient under ``root``."""
    home = root / FOLDERS[order.release]
    if order.release in ("2018", "2019"):
        home /= order.grade
    truth = root / "posterior" / order.name
    truth.mkdir(parents=True)
    for visit in range(order.visits):
        case = make_case(
            settings,
            number=order.number,
            kind=order.kind,
            satellite=order.satellite,
            cavity=order.cavity,
            visit=visit,
            seed=seed,
        )
        name = order.case(visit)
        (home / name).mkdir(parents=True)
        labels = draw_labels(case.annotation, stream(seed, order.number, f"labels {visit}"))
        _save_case(home / name, case, stored_labels(labels, order.release), settings)
        save_posterior(truth / f"{name}.npz", posterior(case.annotation))


def stored_labels(labels: np.ndarray, release: str) -> np.ndarray:
    """Return classes as the values of ``release``: until 2021 enhancing tumour is 4, not 3."""
    if release >= "2023":
        return labels
    return np.array([0, 1, 2, 4], dtype=np.uint8)[labels]


def _save_case(folder: Path, case: BrainCase, labels: np.ndarray, settings: BrainPhantom) -> None:
    """Write images and labels; x and y are reversed with respect to RAS, as in BraTS."""
    size = settings.voxel_mm
    affine = np.diag([-size, -size, size, 1.0])
    affine[1, 3] = (settings.shape[1] - 1) * size
    new = settings.release >= "2023"
    volumes = {n: v.astype(np.int16) for n, v in zip(MODALITIES, case.images, strict=True)}
    for name, volume in (volumes | {"seg": labels}).items():
        ending = f"-{_NEW_NAMES[name]}" if new else f"_{name}"
        save_nifti(folder / f"{folder.name}{ending}{settings.suffix}", volume, affine)


def _lists(orders: list[Order], settings: BrainPhantom, seed: int) -> dict[str, str]:
    """Return the CSV lists of BraTS 2020: name mapping and survival of the high grades."""
    if settings.release != "2020":
        return {}
    years = ("2017", "2018", "TCGA_TCIA", "2019", "2020")
    head = [f"BraTS_{y}_subject_ID" if y.isdigit() else f"{y}_subject_ID" for y in years]
    names = [",".join(["Grade", *head])]
    survival = ["Brats20ID,Age,Survival_days,Extent_of_Resection"]
    for order in orders:
        older = patient_name("2019", order.number) if order.number % 2 else "NA"
        names.append(f"{order.grade},NA,NA,NA,{older},{order.name}")
        rng = stream(seed, order.number, "survival")
        age, days = rng.normal(61, 12), rng.exponential(420)
        extent = rng.choice(("GTR", "STR", "NA"))
        if order.grade == "HGG":
            survival.append(f"{order.name},{age:.3f},{days + 5:.0f},{extent}")
    home = FOLDERS["2020"]
    return {
        f"{home}/name_mapping.csv": "\n".join(names) + "\n",
        f"{home}/survival_info.csv": "\n".join(survival) + "\n",
    }
