"""Find FLARE's cases: images and labels in separate folders, identified by their names."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.case import Case, DataError, Problem, Survey
from datamodules.layouts.flare_releases import Release, release_of
from datamodules.layouts.inputs import listing, unreadable
from datamodules.origin import phantom_home
from datamodules.reading.nifti import is_there, is_volume, stem

_DEPTH = 3  # levels below the root at which folders are looked for
_LABELS = re.compile(r"(training|validation|tuning|test)?masks?|labels(tr|va|val|ts)?", re.I)
_TRAINING = re.compile(r"trainingimg|images|imagestr", re.I)
_OTHERS = re.compile(  # whose images may be without labels
    r"images(va|val|ts)|(validation|tuning|test)(img)?|.*imagepart[-_ ]?\d*|.*unlabel.*", re.I
)


@dataclass
class _Files:
    """What was found of one case."""

    images: list[Path] = field(default_factory=list)
    labels: list[Path] = field(default_factory=list)

    @property
    def all(self) -> list[Path]:
        return [*self.images, *self.labels]


def survey_flare(root: Path, release: Release) -> Survey:
    """Find cases and problems in a download of ``release``.

    Raises:
        DataError: ``root`` has no labeled case, or only those of another release.
    """
    folders = list(_folders(root))
    files = _collect(folders)
    foreign = {name for name in files if release_of(name) not in (None, release)}
    foreign = {  # FLARE22's images without labels are named like AbdomenCT-1K's with labels
        name for name in foreign if files[name].labels or not release.unlabeled.fullmatch(name)
    }
    own = {name: files[name] for name in sorted(set(files) - foreign)}
    if not any(found.labels for found in own.values()):
        raise DataError([_nothing(root, release, own, foreign)])
    home = phantom_home(root)
    cases: list[Case] = []
    problems: list[Problem] = []
    unlabeled: list[Path] = []
    for name, found in own.items():
        if not found.labels and len(found.images) == 1 and _may_lack(found.images[0], release):
            unlabeled.append(found.images[0])
        elif problem := _problem(name, found, root, release):
            problems.append(problem)
        else:
            posterior = home and home / "posterior" / name / f"{name}.npz"
            cases.append(Case(name, name, (found.images[0],), found.labels[0], posterior))
    patients = frozenset([case.id for case in cases] + [problem.case for problem in problems])
    notes = []
    if unlabeled:
        notes.append(
            f"{len(unlabeled)} images without labels are left out, such as {unlabeled[0]}."
        )
    if foreign:
        notes.append(
            f"{len(foreign)} cases that are not of {release.title} are left out, such as "
            f"{files[min(foreign)].all[0]}."
        )
    return Survey(
        tuple(cases),
        patients,
        frozenset(name for name in patients if release.tuning.fullmatch(name)),
        tuple(problems),
        tuple(notes),
    )


def _folders(root: Path) -> Iterator[Path]:
    """Yield ``root`` and the folders below it with images or labels, sorted.

    Raises:
        DataError: ``root`` or a folder below it cannot be read.
    """
    if not root.is_dir() or not os.access(root, os.R_OK | os.X_OK):
        found = "no such folder"
        if root.exists():
            found = "a folder that may not be read" if root.is_dir() else "a file"
        rule = "the data root must be a folder"
        raise DataError([Problem("", str(root), rule, found, "Correct the path (DATA_ROOT).")])
    for place, names, _ in os.walk(root):
        folder = Path(place)
        depth = len(folder.relative_to(root).parts)
        names[:] = sorted(
            name
            for name in names
            if depth < _DEPTH and not name.startswith(".") and name != "__MACOSX"
        )
        if refused := [problem for name in names if (problem := unreadable(folder / name))]:
            raise DataError(refused)
        if any(kind.fullmatch(folder.name) for kind in (_LABELS, _TRAINING, _OTHERS)):
            yield folder


def _collect(folders: list[Path]) -> dict[str, _Files]:
    """Return the files by the case's name; an image's is without ``_0000``."""
    files: dict[str, _Files] = {}
    for folder in folders:
        if _LABELS.fullmatch(folder.name):
            for name, path in _volumes(folder).items():
                files.setdefault(name, _Files()).labels.append(path)
    labeled = set(files)
    for folder in folders:
        if not _LABELS.fullmatch(folder.name):
            for name, path in _volumes(folder).items():
                case = name if name in labeled else name.removesuffix("_0000")
                files.setdefault(case, _Files()).images.append(path)
    return files


def _volumes(folder: Path) -> dict[str, Path]:
    """Return the NIfTI files of a folder by their stem; ``.nii.gz`` is taken before ``.nii``."""
    paths = sorted(
        (path for path in folder.iterdir() if is_volume(path) and is_there(path)),
        key=lambda path: (stem(path), path.name.lower().endswith(".gz")),
    )
    return {stem(path): path for path in paths}


def _may_lack(image: Path, release: Release) -> bool:
    """Return True if an image may be without a label."""
    name = stem(image).removesuffix("_0000")
    if release.tuning.fullmatch(name) or release.unlabeled.fullmatch(name):
        return True
    return not _TRAINING.fullmatch(image.parent.name)


def _problem(name: str, found: _Files, root: Path, release: Release) -> Problem | None:
    """Return the problem of a case's files, or None."""
    leave = "leave the patient out with a split file"
    if len(found.images) > 1 or len(found.labels) > 1:
        twice = found.images if len(found.images) > 1 else found.labels
        return Problem(
            name,
            str(twice[-1]),
            "a case must be there once",
            " and ".join(str(path.relative_to(root)) for path in twice),
            "Remove all but one, or give the folder of one (DATA_ROOT).",
        )
    if not found.images:
        return Problem(
            name,
            str(found.labels[0]),
            f"a label must have an image, as {release.expected}",
            f"no {name}_0000.nii.gz and no {name}.nii.gz in a folder of images",
            f"Restore the image, or {leave}.",
        )
    if not found.labels:
        return Problem(
            name,
            str(found.images[0]),
            f"a training image must have a label, as {release.expected}",
            f"no {name}.nii.gz in a folder of labels",
            f"Restore the label, move images without one to imagesTs/, or {leave}.",
        )
    return None


def _nothing(root: Path, release: Release, own: dict[str, _Files], foreign: set[str]) -> Problem:
    """Return the problem that there is no labeled case of ``release``, with a hint."""
    rule = f"the data root must contain labeled cases of {release.title}: {release.expected}"
    images = [path for found in own.values() for path in found.images]
    if foreign:
        example = min(foreign)
        other = release_of(example)
        assert other is not None  # else it would not be foreign
        fix = (
            f"Give --data.init_args.release {other.name} (make: in ARGS), or another folder "
            "(DATA_ROOT)."
        )
        return Problem("", str(root), rule, f"{example}, which is of {other.title}", fix)
    if any(kind.fullmatch(root.absolute().name) for kind in (_TRAINING, _LABELS)):
        found = f"{len(images)} images without labels" if images else listing(root)
        fix = f"This is one level too deep; give {root.absolute().parent} (DATA_ROOT)."
        return Problem("", str(root), rule, found, fix)
    if images:
        found = f"{len(images)} images without labels, such as {images[0].relative_to(root)}"
        return Problem("", str(root), rule, found, "Put the label files next to them, in labels/.")
    fix = "Give the folder that the archive was unpacked into (DATA_ROOT)."
    return Problem("", str(root), rule, listing(root), fix)
