"""Finds the files to predict."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from datamodules.case import Case, DataError, Problem
from datamodules.reading.nifti import is_there
from datamodules.reading.volumes import SUFFIXES, is_image, stem


def find_inputs(path: Path, is_input: Callable[[str], bool]) -> list[Case]:
    """Return a case for the image ``path``, or for each one in the folder ``path``.

    Args:
        path: An image, NIfTI or a picture, or a folder of them; folders inside are not searched.
        is_input: Returns True for the name, without suffix, of an image; called for the files of
            a folder only.

    Raises:
        DataError: There is no such file, no image, or two images of one name.
    """

    def wrong(rule: str, found: str) -> DataError:
        fix = f"Give an image ({', '.join(SUFFIXES)}), or a folder with some."
        return DataError([Problem("", str(path), rule, found, fix)])

    if is_there(path):
        if not path.name.lower().endswith(SUFFIXES):
            raise wrong("the input must be an image", path.name)
        files = [path]
    elif path.is_dir():
        if problem := unreadable(path):
            raise DataError([problem])
        files = [file for file in sorted(path.iterdir()) if _is_volume(file)]
        files = [file for file in files if is_input(stem(file))]
        if not files:
            raise wrong("the folder must contain images to predict", listing(path))
    else:
        raise wrong("the input must exist", "no such file or folder")
    names = [stem(file) for file in files]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise wrong("each input must have a unique name", f"{twice[0]} in two formats")
    return [
        Case(id=name, patient=name, images=(file,)) for name, file in zip(names, files, strict=True)
    ]


def group_inputs(path: Path, endings: Sequence[Sequence[str]]) -> list[Case]:
    """Return the cases of several modalities in a folder, or in the folders inside it.

    Args:
        path: A folder with a case's files, or with those of many cases, or with a folder a case.
        endings: For each modality in the order of the channels, what its file names may end in
            before the suffix, such as ``("_t1ce", "-t1c")``. What comes before is the case's id.

    Raises:
        DataError: There is no such folder, no image, a case lacks a modality, or has one twice.
    """
    fix = "Give a folder with " + ", ".join(f"*{names[0]}.nii.gz" for names in endings) + "."

    def wrong(rule: str, found: str, case: str = "", where: Path = path) -> Problem:
        return Problem(case, str(where), rule, found, fix)

    if not path.is_dir():
        found = "a file" if path.exists() else "nothing"
        raise DataError([wrong("several modalities must be given as a folder", found)])
    if problem := unreadable(path):
        raise DataError([problem])
    folders = [path, *sorted(folder for folder in path.iterdir() if folder.is_dir())]
    if refused := [problem for folder in folders if (problem := unreadable(folder))]:
        raise DataError(refused)
    files: dict[str, dict[int, list[Path]]] = {}
    for folder in folders:
        for file in sorted(folder.iterdir()):
            if not _is_volume(file):
                continue
            name = stem(file)
            for channel, names in enumerate(endings):
                hits = [end for end in names if name.lower().endswith(end.lower())]
                if hits:
                    case = name[: -max(map(len, hits))]
                    files.setdefault(case, {}).setdefault(channel, []).append(file)
    if not files:
        raise DataError([wrong("the folder must contain images to predict", listing(path))])
    problems, cases = [], []
    for case, channels in sorted(files.items()):
        where = next(iter(channels.values()))[0].parent
        for channel, names in enumerate(endings):
            count = len(channels.get(channel, []))
            if count != 1:
                rule = f"a case must have one file *{names[0]}.nii.gz"
                problems.append(wrong(rule, f"{count}", case, where))
        images = tuple(channels[channel][0] for channel in sorted(channels))
        cases.append(Case(id=case, patient=case, images=images))
    if problems:
        raise DataError(problems)
    return cases


def _is_volume(path: Path) -> bool:
    return is_image(path) and is_there(path)


def listing(folder: Path, limit: int = 5) -> str:
    """Return the first names in a folder, for messages."""
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{', '.join(names[:limit])}{more}" if names else "an empty folder"


def unreadable(folder: Path, case: str = "") -> Problem | None:
    """Return what is wrong with a folder that may not be listed, or None."""
    if os.access(folder, os.R_OK | os.X_OK):
        return None
    fix = "Change its permissions."
    return Problem(case, str(folder), "every folder must be readable", "no permission", fix)
