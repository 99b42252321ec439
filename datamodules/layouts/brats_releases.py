"""Finds the cases of BraTS in the folders that its releases, and copies of them, have."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from datamodules.case import Case, DataError, LabelScheme, Problem, Survey
from datamodules.layouts.inputs import listing, unreadable
from datamodules.origin import phantom_home
from datamodules.reading.nifti import find_nifti, is_volume, stem

OLD_ENDINGS = ("_t1", "_t1ce", "_t2", "_flair")  # the order of the channels
NEW_ENDINGS = ("-t1n", "-t1c", "-t2w", "-t2f")  # 2023 and 2024
ENDINGS = tuple(zip(OLD_ENDINGS, NEW_ENDINGS, strict=True))
DEPTH = 4  # levels below the root: archive, release, grade, case

_RELEASES = {  # how the names of cases begin and end
    "BraTS 2017": r"brats17_.+_\d+",
    "BraTS 2018": r"brats18_.+_\d+",
    "BraTS 2019": r"brats19_.+_\d+",
    "BraTS 2020": r"brats20_[a-z]+_\d+",
    "BraTS 2021": r"brats2021_\d+",
    "BraTS 2023 or 2024": r"brats-[a-z]+-\d+-\d+",
}
_TIME_POINT = re.compile(r"(brats-[a-z]+-\d+)-\d+", re.IGNORECASE)
_GRADES = {"HGG": "LGG", "LGG": "HGG"}
_RULE = (
    "the data root must contain a folder for each case, such as BraTS2021_00000/ with "
    "BraTS2021_00000_{t1,t1ce,t2,flair,seg}.nii.gz, or BraTS-GLI-00000-000/ with "
    "BraTS-GLI-00000-000-{t1n,t1c,t2w,t2f,seg}.nii.gz"
)
_RESTORE = "Restore the file from the archive, or leave the patient out with a split file."


@dataclass
class FoundCase:
    """Content of a case's folder.

    Args:
        id: Name of the case.
        folder: Folder of its files.
        new: True if its files have the names used since 2023.
        images: The modalities that are there, by channel.
        label: The label file.
        renamed: True if the label has an unspecific name.
        alone: True if the folder has no other case.
    """

    id: str
    folder: Path
    new: bool
    images: dict[int, Path] = field(default_factory=dict)
    label: Path | None = None
    renamed: bool = False
    alone: bool = True

    @property
    def patient(self) -> str:
        """The patient: from 2023 on a case is one of several time points of a patient."""
        point = _TIME_POINT.fullmatch(self.id)
        return point[1] if point else self.id

    @property
    def home(self) -> Path:
        """The folder of the release, above the grades."""
        above = self.folder.parent if self.alone else self.folder
        return above.parent if above.name in _GRADES else above


def survey_brats(root: Path, *, old: LabelScheme, new: LabelScheme) -> Survey:
    """Find patients, cases and problems in a download of BraTS.

    Args:
        root: The folder of a release, or one above it.
        old: What labels mean where names are those of 2017 to 2021.
        new: What they mean where names are those of 2023 and 2024.

    Raises:
        DataError: ``root`` is not the folder of the dataset, or has no label file at all.
    """
    _check_folder(root)
    found, problems = _find(root)
    if not found:
        problem = Problem("", str(root), _RULE, listing(root), _hint(root))
        raise DataError([*problems, problem])
    found, notes = _without_unlabeled(root, found)
    problems += _mixed_releases(root, found)
    phantom = phantom_home(root)
    cases = []
    for name, group in groupby(sorted(found, key=lambda case: case.id), key=lambda case: case.id):
        first, *others = group
        faults = [*_twice(first, others, root), *_incomplete(first)]
        problems += faults
        if faults or first.label is None:
            continue
        if first.renamed:
            notes.append(f"{name}: its one file of another name, {first.label.name}, is its label.")
        truth = phantom and phantom / "posterior" / first.patient / f"{name}.npz"
        images = tuple(first.images[channel] for channel in range(len(ENDINGS)))
        scheme = new if first.new else old
        cases.append(Case(name, first.patient, images, first.label, truth, scheme))
    patients = frozenset(case.patient for case in found)
    return Survey(tuple(cases), patients, frozenset(), tuple(problems), tuple(notes))


def _check_folder(root: Path) -> None:
    """Raise DataError if ``root`` is not a folder, cannot be read, or is that of a single case."""
    found, fix = None, "Correct the path (DATA_ROOT)."
    if not root.is_dir() or not os.access(root, os.R_OK | os.X_OK):
        found = "no such folder"
        if root.exists():
            found = "a folder that may not be read" if root.is_dir() else "a file"
    elif [case.id for case in _in_folder(root)] == [root.absolute().name]:
        found, fix = listing(root), f"This is one case; give {root.absolute().parent}."
    if found is not None:
        raise DataError([Problem("", str(root), _RULE, found, fix)])


def _hint(root: Path) -> str:
    packed = sorted(p.name for p in root.iterdir() if p.name.endswith((".zip", ".tar", ".tgz")))
    if packed:
        return f"{packed[0]} is still packed: unpack it."
    return f"Give the folder that the archive was unpacked into, or one up to {DEPTH} levels above."


def _find(root: Path) -> tuple[list[FoundCase], list[Problem]]:
    """Return the contents of the folders up to :data:`DEPTH` levels below ``root``.

    A folder that is there again by a link is looked at once.
    """
    found: list[FoundCase] = []
    problems: list[Problem] = []
    seen: set[Path] = set()
    top, phantom = len(root.parts), phantom_home(root)
    for path, folders, _ in os.walk(root, followlinks=True):
        folder = Path(path)
        if (true := folder.resolve()) in seen:
            folders.clear()
            continue
        seen.add(true)
        deep = len(folder.parts) - top >= DEPTH
        if deep or (phantom is not None and folder.absolute() == phantom / "posterior"):
            folders.clear()
        names = sorted(name for name in folders if not name.startswith("."))
        refused = [problem for name in names if (problem := unreadable(folder / name))]
        problems += refused
        closed = {Path(problem.path).name for problem in refused}
        folders[:] = [name for name in names if name not in closed]
        found += _in_folder(folder)
    return found, problems


def _in_folder(folder: Path) -> Iterator[FoundCase]:
    """Yield the cases whose files are in ``folder``: usually one, in some copies all."""
    names = sorted({stem(path) for path in folder.iterdir() if is_volume(path)})
    cases: dict[tuple[str, bool], FoundCase] = {}
    labels: dict[str, Path] = {}
    others: list[Path] = []
    for name in names:
        path = find_nifti(folder, name)
        if path is None:
            continue  # a folder with a file's name
        known = _modality(name)
        if known is not None:
            case, new, channel = known
            found = cases.setdefault((case, new), FoundCase(case, folder, new))
            found.images[channel] = path
        elif name.lower().endswith(("_seg", "-seg")):
            labels[name[:-4]] = path
        else:
            others.append(path)
    if (
        not cases
        and _release(folder.name)
        and (labels or not any(map(Path.is_dir, folder.iterdir())))
    ):
        new = _TIME_POINT.fullmatch(folder.name) is not None
        cases[folder.name, new] = FoundCase(folder.name, folder, new)
    for found in cases.values():
        found.alone = len(cases) == 1
        found.label = labels.get(found.id)
        if found.label is None and found.alone and len(others) == 1:
            found.label, found.renamed = others[0], True  # as in a copy of BraTS20_Training_355
    yield from cases.values()


def _modality(name: str) -> tuple[str, bool, int] | None:
    """Return (case, True for names used since 2023, channel) of a file name without suffix."""
    for endings, new in ((OLD_ENDINGS, False), (NEW_ENDINGS, True)):
        for channel, ending in enumerate(endings):
            if name.lower().endswith(ending):
                return name[: -len(ending)], new, channel
    return None


def _release(case: str) -> str | None:
    """Return the release that a case's name is one of, or None for other names."""
    for release, pattern in _RELEASES.items():
        if re.fullmatch(pattern, case, re.IGNORECASE):
            return release
    return None


def _without_unlabeled(root: Path, found: list[FoundCase]) -> tuple[list[FoundCase], list[str]]:
    """Leave out releases' parts without any label, such as their validation data; return notes.

    Raises:
        DataError: There is no label at all.
    """
    count = Counter(case.home for case in found)
    labeled = {case.home for case in found if case.label is not None}
    if not labeled:
        rule = "the data root must contain cases with labels"
        fix = "Give the training data: BraTS keeps the labels of its validation and test data back."
        raise DataError([Problem("", str(root), rule, f"{len(found)} cases without any", fix)])
    notes = [
        f"{home} has no label files: its {count[home]} cases are left out."
        for home in sorted(set(count) - labeled)
    ]
    other = _GRADES.get(root.name)
    if other is not None and (root.absolute().parent / other).is_dir():
        notes.append(f"only {root} is read; {root.absolute().parent} contains {other} as well.")
    return [case for case in found if case.home in labeled], notes


def _mixed_releases(root: Path, found: list[FoundCase]) -> list[Problem]:
    count = Counter(_release(case.id) for case in found)
    count.pop(None, 0)
    if len(count) < 2:
        return []
    text = " and ".join(f"{number} cases of {name}" for name, number in sorted(count.items()))
    rule = "the data root must contain one release: the same patients have other names in each"
    return [Problem("", str(root), rule, text, "Give the folder of one of them (DATA_ROOT).")]


def _twice(case: FoundCase, others: list[FoundCase], root: Path) -> list[Problem]:
    return [
        Problem(
            case.patient,
            str(other.folder),
            "a case must be there once",
            f"{case.id} here and in {_within(case.folder, root)}",
            "Remove one of the two.",
        )
        for other in others
    ]


def _within(folder: Path, root: Path) -> str:
    return str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)


def _incomplete(case: FoundCase) -> list[Problem]:
    """Return a problem for each file that a case lacks."""
    endings = NEW_ENDINGS if case.new else OLD_ENDINGS
    lacking = [end for channel, end in enumerate(endings) if channel not in case.images]
    lacking += ["-seg" if case.new else "_seg"] * (case.label is None)
    names = ", ".join(end[1:] for end in endings)
    present = [end[1:] for channel, end in enumerate(endings) if channel in case.images]
    there = ", ".join([*present, "seg"] if case.label is not None else present) or "none of them"
    return [
        Problem(
            case.patient,
            str(case.folder / f"{case.id}{end}.nii.gz"),
            f"a case must have {names} and seg",
            there,
            _RESTORE,
        )
        for end in lacking
    ]
