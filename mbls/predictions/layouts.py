"""Find the maps of each case in a folder of predictions of any program."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mbls.predictions.names import NIFTI, match, some, stem
from mbls.predictions.stored import Kind, Stored, inspect
from mbls.runtime.errors import PredictionError

__all__ = ["FORMATS", "Format", "Found", "Layout", "files_in", "find", "labels_beside"]

Format = Literal["nnunet", "npz", "nifti", "nifti-per-class"]
FORMATS: tuple[Format, ...] = ("nnunet", "npz", "nifti", "nifti-per-class")
_FOLD = re.compile(r"fold_(\d+|all)")
_NUMBER = re.compile(r"(?:class|label|channel|prob|c)?[_-]?0*(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """The files of a case.

    Attributes:
        case: Name of the case.
        stored: Its probability map.
        label: Its label file.
        fold: Fold of nnU-Net in whose validation set it is, if known.
    """

    case: str
    stored: Stored
    label: Path
    fold: int | None = None


@dataclass(frozen=True)
class Layout:
    """What a folder of predictions is.

    Attributes:
        format: One of :data:`FORMATS`.
        folders: The folders with files, and the fold of each.
        dataset_json: nnU-Net's description of the classes that it was trained with, if found.
        notes: Folds that are left out, and why.
    """

    format: Format
    folders: tuple[tuple[Path, int | None], ...]
    dataset_json: Path | None
    notes: tuple[str, ...] = ()


def detect(root: Path, wanted: Format | None = None) -> Layout:
    """Return the layout of a folder.

    Raises:
        PredictionError: There is no such folder, nothing to read in it, or folds that did not
            predict the cases that they were not trained on.
    """
    if not root.is_dir():
        raise PredictionError(
            f"The predictions' folder {root} does not exist. Name a folder of probability maps, "
            "or nnU-Net's results folder, nnUNet_results/DatasetXXX/TRAINER__PLANS__CONFIG."
        )
    here = root.resolve()
    folds = sorted(
        (path for path in root.iterdir() if _FOLD.fullmatch(path.name) and path.is_dir()),
        key=lambda path: (len(path.name), path.name),
    )
    if _FOLD.fullmatch(here.name):
        folds = [root]
    elif here.name == "validation" and _FOLD.fullmatch(here.parent.name):
        folds = [here.parent]
    above = (here, here.parent, here.parent.parent) if folds else (here,)
    beside = [place / "dataset.json" for place in above]
    dataset_json = next((path for path in beside if path.is_file()), None)
    if folds and wanted in (None, "nnunet"):
        read = tuple(_validations(root, folds))
        return Layout("nnunet", read, dataset_json, tuple(_left_out(folds, read)))
    files = list(files_in(root, (".npz",)))
    form: Format = wanted or ("nifti" if not files else "nnunet" if dataset_json else "npz")
    return Layout(form, ((root, None),), dataset_json)


def _validations(root: Path, folds: Sequence[Path]) -> Iterator[tuple[Path, int]]:
    """Yield the validation folder of each fold that has maps, and the fold."""
    known = [fold for fold in folds if any(files_in(fold / "validation", (".npz",)))]
    if everything := [fold for fold in known if fold.resolve().name == "fold_all"]:
        if len(known) == 1:
            raise PredictionError(
                f"{everything[0]}/validation has cases that the network was trained on (fold all "
                "has no others), so its calibration there says nothing about new patients. Train "
                "folds 0 to 4, or predict cases of a test set with --save_probabilities."
            )
        known.remove(everything[0])
    if not known:
        raise PredictionError(
            f"No fold in {root} has probabilities, fold_k/validation/*.npz. Let nnU-Net write them "
            "with a trained network: nnUNetv2_train DATASET CONFIGURATION FOLD --val --npz."
        )
    for fold in known:
        yield fold / "validation", int(fold.resolve().name.removeprefix("fold_"))


def _left_out(folds: Sequence[Path], read: Sequence[tuple[Path, int]]) -> Iterator[str]:
    """Yield a note on each fold that is not read."""
    for fold in folds:
        name = fold.resolve().name
        if any(place.parent == fold for place, _ in read):
            continue
        if name == "fold_all":
            yield f"{name} is left out: its network was trained on the cases that it validates on."
        else:
            yield f"{name} has no probabilities yet and is left out (nnUNetv2_train --val --npz)."


def find(
    layout: Layout, labels: Mapping[str, Path], channels: Sequence[str] = ()
) -> tuple[list[Found], list[str]]:
    """Return the cases that have a prediction and a label, by name, and notes for the user.

    Args:
        layout: The folder's layout.
        labels: Label file of each case.
        channels: Names of the channels, by which files of one class may be called.

    Raises:
        PredictionError: No prediction has a label, or a file cannot be read.
    """
    found: dict[str, Found] = {}
    others: list[Path] = []
    for folder, fold in layout.folders:
        ends = (".npz",) if layout.format in ("nnunet", "npz") else NIFTI
        files = list(files_in(folder, ends))
        if not files:
            raise PredictionError(
                f"{folder} has no probabilities to read: there is no {' or '.join(ends)} in it. "
                f"Name another folder, or its format, FORMAT={'|'.join(FORMATS)} (--format)."
            )
        matched, rest = match(files, labels)
        others += rest
        for case, own in matched.items():
            if case in found:
                raise PredictionError(
                    f"{case} is predicted twice, by fold {found[case].fold} and fold {fold}: folds "
                    "of one training validate on different cases. Name the folder of one fold."
                )
            found[case] = Found(case, _map(layout, own, case, channels), labels[case], fold)
    notes = list(layout.notes)
    if not found:
        raise PredictionError(
            f"No prediction has a label of its name: there are predictions "
            f"{some(stem(path) for path in others)} and labels {some(labels)}. A prediction of "
            "the label case.nii.gz is named case.npz, case.nii.gz, case_prob.nii.gz or "
            "case_0.nii.gz, case_1.nii.gz, ..."
        )
    if others:
        names = some(dict.fromkeys(stem(path) for path in others))
        notes.append(f"{len(others)} files are of no labeled case and left out: {names}.")
    if without := sorted(set(labels) - set(found)):
        notes.append(f"{len(without)} labels have no prediction: {some(without)}.")
    return [found[case] for case in sorted(found)], notes


def _map(layout: Layout, own: Mapping[str, Path], case: str, channels: Sequence[str]) -> Stored:
    """Return the map of a case among its files, by what follows the case's name."""
    if layout.format in ("nnunet", "npz"):
        if len(own) > 1:
            raise PredictionError(
                f"{case} has several predictions: {some(path.name for path in own.values())}. Keep "
                "one of them."
            )
        return inspect("npz", list(own.values()))
    names = {name.lower(): k for k, name in enumerate(channels)}
    parts: dict[int, Path] = {}
    for rest, path in own.items():
        number = _NUMBER.fullmatch(rest)
        place = names.get(rest.lower(), int(number[1]) if number else None)
        if place is not None:
            parts[place] = path
    if layout.format == "nifti-per-class" or len(parts) > 1:
        return _per_class(parts, case)
    maps = [inspect_any("nifti", path) for path in own.values()]
    whole = [one for one in maps if isinstance(one, Stored) and len(one.shape) > 3]
    if len(whole) == 1:
        return whole[0]
    if whole:
        raise PredictionError(
            f"{case} has several maps: {some(one.name for one in whole)}. Keep one of them."
        )
    if (wrong := next((one for one in maps if isinstance(one, PredictionError)), None)) is not None:
        raise wrong
    paths = some(path.name for path in own.values())
    raise PredictionError(
        f"{case} has no axis of classes in {paths}: a label map, or the probability of one class. "
        "Export the probabilities of all classes, in one file or as case_0.nii.gz, case_1.nii.gz, "
        "..."
    )


def inspect_any(kind: Kind, path: Path) -> Stored | PredictionError:
    """Return a map, or why it is none: a label map may lie next to it."""
    try:
        return inspect(kind, [path])
    except PredictionError as error:
        return error


def _per_class(parts: Mapping[int, Path], case: str) -> Stored:
    lacking = sorted(set(range(max(parts, default=0) + 1)) - set(parts))
    if lacking or len(parts) < 1:
        there = some(path.name for path in parts.values()) or "none"
        raise PredictionError(
            f"{case} lacks the file of class {lacking[0] if lacking else 0}: there are {there}. "
            "Classes are numbered from 0, the background; export all of them."
        )
    return inspect("nifti-per-class", [parts[k] for k in range(len(parts))])


def labels_beside(layout: Layout, root: Path) -> Path | None:
    """Return the labels that nnU-Net trained with, where it prepared or found them.

    They are ``gt_segmentations`` of the preprocessed or ``labelsTr`` of the raw dataset, next to
    the results' folder or where the variables of the environment say.
    """
    if layout.dataset_json is None:
        return None
    dataset = layout.dataset_json.parent.parent
    within = {"preprocessed": "gt_segmentations", "raw": "labelsTr"}
    for kind, name in within.items():
        given = os.environ.get(f"nnUNet_{kind}")
        above = dataset.parent.parent
        for place in ([Path(given)] if given else []) + [above / f"nnUNet_{kind}", above / kind]:
            if (folder := place / dataset.name / name).is_dir():
                return folder
    return None


def files_in(folder: Path, ends: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files in a folder and those within it (MONAI writes a folder a case), sorted.

    Those in ``uncertainty``, where ``mbls ensemble`` writes maps of other things, are left out.
    """
    for path in sorted(folder.rglob("*")):
        if path.relative_to(folder).parts[0] == "uncertainty":
            continue
        if path.name.lower().endswith(ends) and path.is_file() and not path.name.startswith("."):
            yield path
