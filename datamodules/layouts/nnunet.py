"""Layout of nnU-Net v2's raw datasets (Isensee et al. 2021): one file a channel, dataset.json.

https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md
"""

import os
import re
from pathlib import Path
from typing import Any

from datamodules.case import Case, DataError, Problem
from datamodules.layouts.found import Found, file_name, read_json, repeated
from datamodules.layouts.inputs import listing
from datamodules.layouts.labels import Value
from datamodules.reading.pictures import is_picture
from datamodules.reading.volumes import NiftiError, count_channels, is_image, stem

_CHANNEL = re.compile(r"(.+)_(\d{4})")
_WHAT = "a raw dataset of nnU-Net v2"


def read_nnunet(root: Path) -> Found:
    """Return the dataset in a folder ``DatasetXXX_Name`` of nnU-Net's raw data.

    Raises:
        DataError: dataset.json is missing, broken, or not of version 2; or there are no cases.
    """
    file = root / "dataset.json"
    content = read_json(file, _WHAT)
    channels, labels = check_dataset_json(content, file)
    cases, problems, notes = [], [], []
    test: set[str] = set()
    for images, masks in (("imagesTr", "labelsTr"), ("imagesTs", "labelsTs")):
        if images == "imagesTs" and not (root / masks).is_dir():
            continue
        found, wrong = cases_in(root / images, root / masks, len(channels))
        cases += found
        problems += wrong
        if images == "imagesTs":
            test = {case.id for case in found}
    for name in repeated(case.id for case in cases):
        rule, fix = "a case must have a name of its own", "Rename the one in imagesTs and labelsTs."
        problems.append(Problem(name, str(root), rule, "one in imagesTr and one in imagesTs", fix))
    if not cases and not problems:
        rule = f"{_WHAT} must have cases in imagesTr and labelsTr"
        fix = "Name images case_0000.nii.gz, one file a channel, and labels case.nii.gz."
        raise DataError([Problem("", str(root), rule, listing(root), fix)])
    stated = content.get("numTraining")
    training = len(cases) - len(test)
    if isinstance(stated, int) and stated != training and not problems:
        notes.append(f"{file}: numTraining is {stated}, and imagesTr has {training} cases.")
    return Found(
        file_name(root.absolute().name),
        tuple(sorted(cases, key=lambda case: case.id)),
        labels,
        channels,
        frozenset(test),
        find_splits(root),
        tuple(problems),
        tuple(notes),
    )


def check_dataset_json(
    content: dict[str, Any], file: Path
) -> tuple[tuple[str, ...], dict[str, Value]]:
    """Return channel names and labels of a dataset.json of version 2.

    Raises:
        DataError: Lists everything that is wrong with the file.
    """
    problems = []

    def wrong(rule: str, found: str, fix: str) -> None:
        problems.append(Problem("", str(file), rule, found, fix))

    labels, names = content.get("labels"), content.get("channel_names")
    if "modality" in content and names is None:
        first = next(iter(content.get("training") or [None]), None)
        fix = "Convert it: nnUNetv2_convert_old_nnUNet_dataset OLD NEW."
        if isinstance(first, dict):
            fix = "Use DATASET=decathlon; for nnU-Net v1 nnUNetv2_convert_old_nnUNet_dataset."
        wrong("dataset.json must be of nnU-Net v2 (channel_names)", "one with modality", fix)
    elif not isinstance(names, dict) or not names:
        wrong(
            "dataset.json must have channel_names",
            repr(names),
            'Add them: "channel_names": {"0": "CT"}.',
        )
    elif sorted(map(str, names)) != sorted(map(str, range(len(names)))):
        keys = ", ".join(map(str, names))
        wrong("channel_names must be numbered from 0", keys, "Number them 0, 1, ...")
    if not isinstance(labels, dict) or not labels:
        wrong(
            "dataset.json must have labels",
            repr(labels),
            'Add them: "labels": {"background": 0, "liver": 1}.',
        )
    elif all(str(name).isdecimal() for name in labels):
        fix = 'Write names first, as nnU-Net v2 does: {"background": 0, "liver": 1}.'
        wrong("labels must map names to values", f"{dict(list(labels.items())[:2])}", fix)
    if problems:
        raise DataError(problems)
    assert isinstance(names, dict)
    assert isinstance(labels, dict)
    return tuple(str(names[key]) for key in sorted(names, key=int)), dict(labels)


def cases_in(images: Path, masks: Path, channels: int) -> tuple[list[Case], list[Problem]]:
    """Return the cases of two folders, and what is wrong with them."""
    problems = []
    files: dict[str, dict[int, Path]] = {}
    for folder in (images, masks):
        if not folder.is_dir():
            fix = "Create it, or correct the path (DATA_ROOT)."
            rule = f"{_WHAT} must have {folder.name}"
            return [], [Problem("", str(folder), rule, "no such folder", fix)]
    for path in sorted(filter(is_image, images.iterdir())):
        match = _CHANNEL.fullmatch(stem(path))
        if match is None:
            rule = "an image's name must end in the channel's number"
            fix = "Rename it: case_0000.nii.gz for the first channel."
            problems.append(Problem("", str(path), rule, path.name, fix))
            continue
        same = files.setdefault(match[1], {})
        if (number := int(match[2])) in same:
            rule, twice = "a channel must have one file", f"{same[number].name} and {path.name}"
            problems.append(Problem(match[1], str(path), rule, twice, "Remove one of the two."))
        same[number] = path
    labels = {stem(path): path for path in sorted(filter(is_image, masks.iterdir()))}
    cases = []
    for name, own in sorted(files.items()):
        if set(own) == {0} and channels > 1 and colors_in(own[0]) == channels and name in labels:
            cases.append(Case(name, name, (own[0],), labels[name]))
            continue
        lacking = sorted(set(range(channels)) - set(own))
        surplus = sorted(set(own) - set(range(channels)))
        if lacking or surplus:
            rule = f"a case must have {channels} channels, as dataset.json (channel_names) states"
            found = ", ".join(path.name for path in own.values())
            fix = "Restore the missing file." if lacking else "Add it to channel_names."
            problems.append(Problem(name, str(images), rule, found, fix))
        elif name not in labels:
            rule = "an image must have a label"
            fix = f"Restore {masks.name}/{name}.nii.gz, or move the image away."
            problems.append(Problem(name, str(masks), rule, "no file", fix))
        else:
            paths = tuple(own[number] for number in range(channels))
            cases.append(Case(name, name, paths, labels[name]))
    for name in sorted(set(labels) - set(files)):
        rule = "a label must have an image"
        fix = f"Restore {images.name}/{name}_0000.nii.gz, or move the label away."
        problems.append(Problem(name, str(labels[name]), rule, "no file", fix))
    return cases, problems


def colors_in(path: Path) -> int:
    """Return the number of channels of a picture, which nnU-Net keeps in one file; else 0."""
    try:
        return count_channels(path) if is_picture(path) else 0
    except NiftiError:
        return 0


def find_splits(root: Path) -> Path | None:
    """Return nnU-Net's splits_final.json, in the folder or where nnU-Net preprocessed it."""
    name = root.absolute().name
    places = [root, root.absolute().parent.parent / "nnUNet_preprocessed" / name]
    if variable := os.environ.get("nnUNet_preprocessed"):  # noqa: SIM112 (nnU-Net's spelling)
        places.append(Path(variable) / name)
    files = (place / "splits_final.json" for place in places)
    return next((file for file in files if file.is_file()), None)
