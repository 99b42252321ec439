"""Write the cardiac phantom in the on-disk layout of ACDC (Bernard et al., IEEE TMI 37(11), 2018).

::

    root/
      database/training/patient001/   Info.cfg, patient001_frame01.nii.gz, ..._frame01_gt.nii.gz
      database/testing/patient031/    the same; ED and ES of each patient, as in ACDC
      posterior/patient001/           patient001_frame01.npz: the labels' probabilities
      phantom.json                    marks the folder as a phantom; seed, version, settings
      split.json                      {"train": [...], "val": [...], "test": [...]}

``database`` holds nothing that ACDC does not have. What ACDC has and a reader of labelled frames
has no use for is left out: the 4D cine series (ten times the size) and the citation notes (these
are not ACDC's images).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np

from datamodules.phantom.anatomy import FRAMES, GROUPS, Anatomy
from datamodules.phantom.annotator import draw_labels, posterior
from datamodules.phantom.folder import check_arguments, write_folder
from datamodules.phantom.patient import make_patient
from datamodules.phantom.random_field import stream
from datamodules.phantom.settings import CardiacPhantom, checked_counts
from datamodules.reading.posterior import save_posterior

VERSION = 1  # of the construction: raised whenever the same settings give other files
DEFAULT_PATIENTS = {"train": 24, "val": 6, "test": 10}


@dataclass(frozen=True)
class Order:
    """A patient to be written."""

    number: int
    part: str
    group: str
    header_fault: bool
    late_ed: bool

    @property
    def name(self) -> str:
        """Folder and file stem."""
        return f"patient{self.number:03d}"


def write_acdc_phantom(
    root: Path,
    *,
    patients: Mapping[str, int] = DEFAULT_PATIENTS,
    settings: CardiacPhantom | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> None:
    """Write the phantom to ``root``, or leave it alone if it is there with the same settings.

    The files depend on ``patients``, ``settings`` and ``seed`` alone, not on ``workers``. They
    are written beside ``root`` and moved there at the end, so that what an interruption leaves
    is never taken for a phantom.

    Args:
        root: Folder to write.
        patients: Number of patients of each part: ``train``, ``val`` and ``test``.
        settings: Settings of anatomy, annotator and scan; None takes the defaults.
        seed: Seed of every draw, >= 0.
        workers: Threads; None takes one for each usable core.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: ``root`` holds a phantom of other settings, or an argument is out of range.
        FileExistsError: ``root`` holds something else, or is a file.
        OSError: ``root`` cannot be written (permission, disk full); the message names it.
    """
    root = Path(root)
    settings = CardiacPhantom() if settings is None else settings
    counts = checked_counts(patients)
    check_arguments(seed, workers)
    card = {
        "origin": "phantom",
        "dataset": "acdc",
        "note": "Synthetic images and labels in ACDC's layout. They are not ACDC.",
        "version": VERSION,
        "seed": seed,
        "patients": counts,
        "settings": settings.as_json(),
    }
    orders = _orders(settings, counts, seed)
    write_folder(
        root,
        orders,
        partial(write_patient, settings=settings, seed=seed),
        card=card,
        split={part: [o.name for o in orders if o.part == part] for part in counts},
        title="Writing the ACDC phantom",
        workers=workers,
        progress=progress,
    )


def _orders(settings: CardiacPhantom, counts: Mapping[str, int], seed: int) -> list[Order]:
    """Return the patients, the groups in turn within each part."""
    total = sum(counts.values())
    shuffled = stream(seed, 0, "quirks").permutation(total)
    n_fault = round(settings.header_fault_fraction * total)
    n_late = round(settings.late_ed_fraction * total)
    fault, late = set(shuffled[:n_fault].tolist()), set(shuffled[total - n_late :].tolist())
    places = [(part, k) for part, count in counts.items() for k in range(count)]
    groups = list(GROUPS)
    return [
        Order(n + 1, part, groups[k % len(groups)], n in fault, n in late)
        for n, (part, k) in enumerate(places)
    ]


def write_patient(root: Path, order: Order, *, settings: CardiacPhantom, seed: int) -> None:
    """Write one patient's folder and posteriors under ``root``."""
    patient = make_patient(
        settings,
        number=order.number,
        group=order.group,
        seed=seed,
        header_fault=order.header_fault,
        late_ed=order.late_ed,
    )
    half = "testing" if order.part == "test" else "training"
    folder = root / "database" / half / order.name
    truth = root / "posterior" / order.name
    folder.mkdir(parents=True)
    truth.mkdir(parents=True)
    anatomy = patient.anatomy
    (folder / "Info.cfg").write_text(_info(anatomy))
    for frame in FRAMES:
        stem = f"{order.name}_frame{anatomy.frames[frame]:02d}"
        case = patient.annotations[frame]
        labels = draw_labels(case, stream(seed, order.number, f"labels {frame}"))
        image = np.clip(np.rint(patient.images[frame]), 0, np.iinfo(np.int16).max)
        _save_nifti(folder / f"{stem}.nii.gz", image.astype(np.int16), anatomy)
        _save_nifti(folder / f"{stem}_gt.nii.gz", labels, anatomy)
        save_posterior(truth / f"{stem}.npz", posterior(case))


def _info(anatomy: Anatomy) -> str:
    """Return the text of Info.cfg: ``Key: value`` lines without a section, as in ACDC."""
    facts = {
        "ED": anatomy.frames["ED"],
        "ES": anatomy.frames["ES"],
        "Group": anatomy.group,
        "Height": anatomy.height,
        "NbFrame": anatomy.n_frames,
        "Weight": anatomy.weight,
    }
    return "".join(f"{key}: {value}\n" for key, value in facts.items())


def _save_nifti(path: Path, data: np.ndarray, anatomy: Anatomy) -> None:
    """Write ``data`` with ACDC's header: origin 0, x and y reversed with respect to RAS.

    With the header fault the sform has unit scales, and only qform and pixdim hold the spacing.
    """
    scales = anatomy.spacing
    true = np.diag([-scales[0], -scales[1], scales[2], 1.0])
    header = nib.Nifti1Header()
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    header.set_xyzt_units("mm", "sec")
    header.set_qform(true, code=1)
    header.set_sform(np.diag([-1.0, -1.0, 1.0, 1.0]) if anatomy.header_fault else true, code=1)
    nib.save(nib.Nifti1Image(data, None, header), path)
