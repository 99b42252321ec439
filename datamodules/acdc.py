"""ACDC, the Automated Cardiac Diagnosis Challenge (MICCAI 2017): short-axis cine MRI.

Bernard et al., "Deep Learning Techniques for Automatic MRI Cardiac Multi-structures Segmentation
and Diagnosis: Is the Problem Solved?", IEEE TMI 37(11), 2018, doi 10.1109/TMI.2018.2837502.
"""

import os
from pathlib import Path
from typing import Any

from datamodules.base import SegmentationDataModule
from datamodules.case import Case, DataError, Problem, Survey
from datamodules.layouts.inputs import listing, unreadable
from datamodules.origin import phantom_home
from datamodules.reading.nifti import find_nifti, is_volume, stem

_EXPECTED = "training/ (and testing/) with a folder for each patient: training/patient001/Info.cfg"


class ACDCDataModule(SegmentationDataModule):
    """End-diastolic and end-systolic frames of 150 patients, two cases a patient.

    Without ``root``, the phantom in ACDC's layout is written to ``phantom_root`` and used.

    Args:
        root: The folder ``database/``, its parent, or the folder that contains
            ``training/`` and ``testing/``.
        phantom_seed: Seed of the phantom.
        phantom_patients: Number of patients in its parts; None for 24 train, 6 val, 10 test.
        **settings: See :class:`~datamodules.base.SegmentationDataModule`.
    """

    dataset = "acdc"
    num_classes = 4
    class_names = ("background", "right ventricle", "myocardium", "left ventricle")
    class_keys = ("background", "rv", "myo", "lv")
    in_channels = 1
    phantom_of = "ACDC"
    label_map = {0: 0, 1: 1, 2: 2, 3: 3}  # noqa: RUF012 - a fact, never changed
    quantities = (
        {"name": "LV ejection fraction", "unit": "%",
         "sum": {"lv ED": 100, "lv ES": -100}, "over": {"lv ED": 1}},
        {"name": "RV ejection fraction", "unit": "%",
         "sum": {"rv ED": 100, "rv ES": -100}, "over": {"rv ED": 1}},
        {"name": "LV mass", "unit": "g", "sum": {"myo ED": 1.05}},  # 1.05 g/ml
    )  # fmt: skip

    def __init__(
        self,
        root: Path | None = None,
        *,
        phantom_seed: int = 0,
        phantom_patients: dict[str, int] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(root, **settings)
        self.phantom_seed = phantom_seed
        self.phantom_patients = dict(phantom_patients or {"train": 24, "val": 6, "test": 10})

    def discover(self, root: Path) -> Survey:
        """Find the cases; see the README of this folder for what the download may look like."""
        return survey_acdc(root)

    def is_input(self, name: str) -> bool:
        """Leave out the labels and the cine series next to the frames."""
        return not name.endswith(("_gt", "_4d"))

    def write_phantom(self, folder: Path, *, progress: bool) -> None:
        """Write the phantom unless it is there."""
        from datamodules.phantom import write_acdc_phantom  # lazy: seldom needed

        write_acdc_phantom(
            folder,
            patients=self.phantom_patients,
            seed=self.phantom_seed,
            workers=self.preparer.workers,
            progress=progress,
        )


def survey_acdc(root: Path) -> Survey:
    """Find patients, cases and problems in a download of ACDC.

    Raises:
        DataError: ``root`` is not the folder of the dataset.
    """
    database = find_database(root)
    home = phantom_home(database)
    posteriors = None if home is None else home / "posterior"
    cases: list[Case] = []
    problems: list[Problem] = []
    patients: dict[str, str] = {}
    unlabeled: set[str] = set()
    for part in ("training", "testing"):
        if (database / part).is_dir() and (problem := unreadable(database / part)):
            problems.append(problem)
            continue
        folders = patient_folders(database / part)
        hidden = part == "testing" and not any(has_labels(folder) for folder in folders)
        for folder in folders:
            if folder.name in patients:
                problems.append(
                    Problem(
                        folder.name,
                        str(folder),
                        "a patient must be in training/ or in testing/",
                        "the same folder name in both",
                        "Remove one of the two.",
                    )
                )
                continue
            patients[folder.name] = part
            if hidden:
                unlabeled.add(folder.name)
                continue
            found, wrong = frame_cases(folder, posteriors)
            cases += found
            problems += wrong
    labeled = frozenset(patients) - unlabeled
    official = frozenset(name for name in labeled if patients[name] == "testing")
    cases.sort(key=lambda case: case.id)
    notes: tuple[str, ...] = ()
    if unlabeled:
        notes = (
            f"{database / 'testing'} has no label files (an older download): its "
            f"{len(unlabeled)} patients are left out, and training/ provides the test set.",
        )
    return Survey(tuple(cases), labeled, official, tuple(problems), notes)


def find_database(root: Path) -> Path:
    """Return the folder that contains ``training/``: ``root`` or its ``database/``.

    Raises:
        DataError: Neither does; the message has what was expected and found.
    """
    rule = f"the data root must contain {_EXPECTED}"
    if not root.is_dir() or not os.access(root, os.R_OK | os.X_OK):
        found = "no such folder"
        if root.exists():
            found = "a folder that may not be read" if root.is_dir() else "a file"
        raise DataError([Problem("", str(root), rule, found, "Correct the path (DATA_ROOT).")])
    for folder in (root, root / "database"):
        if patient_folders(folder / "training"):
            return folder
    if (root / "Info.cfg").is_file():
        hint = f"This is one patient; give {root.absolute().parent.parent}."
    elif any((folder / "Info.cfg").is_file() for folder in root.glob("patient*")):
        hint = f"These are patients, one level too deep; give {root.absolute().parent}."
    elif below := sorted(folder.parent for folder in root.glob("*/training")) + sorted(
        folder.parent for folder in root.glob("*/*/training")
    ):
        hint = f"This is above the data; give {below[0].absolute()}."
    else:
        hint = "Give the folder that the archive was unpacked into (DATA_ROOT)."
    raise DataError([Problem("", str(root), rule, listing(root), hint)])


def patient_folders(part: Path) -> list[Path]:
    """Return the patients' folders in ``training/`` or ``testing/``, sorted.

    One download had them one level deeper, in ``testing/testing/``.
    """
    for folder in (part, part / part.name):
        if found := sorted(path for path in folder.glob("patient*") if path.is_dir()):
            return found
    return []


def has_labels(folder: Path) -> bool:
    """Return True if a patient's folder has any label file."""
    return any(is_volume(path) and stem(path).endswith("_gt") for path in folder.glob("*_gt.*"))


def frame_cases(folder: Path, posteriors: Path | None) -> tuple[list[Case], list[Problem]]:
    """Return the two cases of a patient, by the frame numbers in Info.cfg, and what is wrong.

    Neither the order of the file names nor frame 1 means end-diastole: patient090 has its frames
    at 4 and 11.
    """
    patient = folder.name
    cases: list[Case] = []
    problems: list[Problem] = []

    def note(path: Path, rule: str, found: str, fix: str) -> None:
        problems.append(Problem(patient, str(path), rule, found, fix))

    if problem := unreadable(folder, patient):
        return [], [problem]
    info = folder / "Info.cfg"
    restore = "Restore the file from the archive, or leave the patient out with a split file."
    if not info.is_file():
        note(info, "a patient must have an Info.cfg", listing(folder), restore)
        return [], problems
    try:
        frames = read_info(info)
    except OSError as error:
        note(info, "Info.cfg must be readable", error.strerror or str(error), restore)
        return [], problems
    for phase in ("ED", "ES"):
        number = frames.get(phase, "nothing")
        if not number.isdecimal():
            note(info, f"Info.cfg must give {phase} as a frame number", number[:40], restore)
            continue
        name = f"{patient}_frame{int(number):02d}"
        image, label = find_nifti(folder, name), find_nifti(folder, f"{name}_gt")
        if image is None:
            rule = f"the {phase} frame that Info.cfg names must exist"
            note(folder / f"{name}.nii.gz", rule, listing(folder), restore)
        elif label is None:
            rule = f"the {phase} frame must have a label file"
            note(folder / f"{name}_gt.nii.gz", rule, listing(folder), restore)
        elif any(case.id == name for case in cases):
            note(info, "ED and ES must be two frames", f"{number} for both", restore)
        else:
            posterior = posteriors and posteriors / patient / f"{name}.npz"
            cases.append(Case(name, patient, (image,), label, posterior, phase=phase))
    return cases, problems


def read_info(path: Path) -> dict[str, str]:
    """Return the values of an Info.cfg: lines of ``Key: value``, with no section header.

    Spaces, blank lines, the line ends of Windows and a byte order mark do not matter.
    """
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}
