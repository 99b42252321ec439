"""Layout of the Medical Segmentation Decathlon (Antonelli et al. 2022, arXiv:1902.09063)."""

from pathlib import Path
from typing import Any

from datamodules.case import Case, DataError, Problem
from datamodules.layouts.found import Found, file_name, read_json, repeated
from datamodules.layouts.labels import Value
from datamodules.reading.volumes import is_image, stem

_WHAT = "a task of the Decathlon"


def read_decathlon(root: Path) -> Found:
    """Return the dataset in a task's folder: images of all channels in one file, dataset.json.

    Only its labeled images, the list ``training``, are used: the labels of the test images are
    not public.

    Raises:
        DataError: dataset.json is missing, broken or not of this form.
    """
    file = root / "dataset.json"
    content = read_json(file, _WHAT)
    channels, labels, entries = check_dataset_json(content, file)
    cases, problems = [], []
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not {"image", "label"} <= set(entry):
            rule = "an entry of training must have image and label"
            problems.append(Problem("", str(file), rule, repr(entry)[:80], f"Entry {number}."))
            continue
        image, label = (root / str(entry[key]) for key in ("image", "label"))
        lacking = [path for path in (image, label) if not path.exists()]
        if not is_image(image):
            rule = "an image must be NIfTI or a picture"
            problems.append(Problem("", str(file), rule, image.name, f"Entry {number}."))
        elif lacking:
            rule = "the files that dataset.json lists must exist"
            fix = "Unpack the archive again, or remove the entry."
            found = "no such file"
            problems += [Problem(stem(image), str(path), rule, found, fix) for path in lacking]
        else:
            name = stem(image)
            cases.append(Case(name, name, (image,), label, stacked=len(channels) > 1))
    for name in repeated(case.id for case in cases):
        rule = "a case must be listed once in training"
        problems.append(Problem(name, str(file), rule, "more than one entry", "Remove one."))
    if not cases and not problems:
        rule = "dataset.json must list cases in training"
        fix = "Unpack the archive again."
        raise DataError([Problem("", str(file), rule, "none", fix)])
    listed = {Path(str(entry.get("image"))).name for entry in entries if isinstance(entry, dict)}
    folder, notes = root / "imagesTr", []
    if folder.is_dir():
        extra = [p.name for p in sorted(folder.iterdir()) if is_image(p) and p.name not in listed]
        if extra:
            more = f"{extra[0]} and {len(extra) - 1} more" if len(extra) > 1 else extra[0]
            notes.append(f"{folder}: {more}: not listed in dataset.json, and not used.")
    return Found(
        file_name(root.absolute().name),
        tuple(sorted(cases, key=lambda case: case.id)),
        labels,
        channels,
        problems=tuple(problems),
        notes=tuple(notes),
    )


def check_dataset_json(
    content: dict[str, Any], file: Path
) -> tuple[tuple[str, ...], dict[str, Value], list[Any]]:
    """Return channel names, labels and training entries of a dataset.json.

    Raises:
        DataError: Lists everything that is wrong with the file.
    """
    problems = []

    def wrong(rule: str, found: str, fix: str) -> None:
        problems.append(Problem("", str(file), rule, found, fix))

    modality, labels = content.get("modality"), content.get("labels")
    entries = content.get("training")
    if "channel_names" in content and modality is None:
        fix = "Use DATASET=nnunet."
        wrong("dataset.json must be of the Decathlon (modality)", "one with channel_names", fix)
    elif not isinstance(modality, dict) or not modality:
        wrong("dataset.json must have modality", repr(modality), 'Add "modality": {"0": "MRI"}.')
    elif not all(str(key).isdecimal() for key in modality):
        wrong("modality must map numbers to names", repr(modality), 'As {"0": "MRI"}.')
    if not isinstance(labels, dict) or not all(str(key).isdecimal() for key in labels):
        fix = 'Write {"0": "background", "1": "liver"}.'
        wrong("labels must map values to names", repr(labels)[:80], fix)
    elif repeated(map(str, labels.values())):
        wrong("labels must have different names", repr(labels)[:80], "Rename one of them.")
    if not isinstance(entries, list):
        fix = 'List the cases: [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}].'
        wrong("dataset.json must list cases in training", repr(entries)[:80], fix)
    if problems:
        raise DataError(problems)
    assert isinstance(modality, dict)
    assert isinstance(labels, dict)
    assert isinstance(entries, list)
    names = tuple(str(modality[key]) for key in sorted(modality, key=int))
    return names, {str(name): int(value) for value, name in labels.items()}, entries
