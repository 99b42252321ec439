"""Finds the files to predict."""

from collections.abc import Callable
from pathlib import Path

from datamodules.case import Case, DataError, Problem
from datamodules.nifti import SUFFIXES, stem


def find_inputs(path: Path, is_input: Callable[[str], bool]) -> list[Case]:
    """Return a case for the NIfTI file ``path``, or for each one in the folder ``path``.

    Args:
        path: A NIfTI file, or a folder of them; folders inside it are not searched.
        is_input: Tells by a file's name without suffix whether it is an image; only asked about
            the files of a folder.

    Raises:
        DataError: There is no such file, no image, or two images of one name.
    """

    def wrong(rule: str, found: str) -> DataError:
        fix = "Give a .nii.gz or .nii file, or a folder that holds some."
        return DataError([Problem("", str(path), rule, found, fix)])

    if path.is_file():
        if not path.name.endswith(SUFFIXES):
            raise wrong("the input must be a NIfTI file", path.name)
        files = [path]
    elif path.is_dir():
        present = sorted(file for file in path.iterdir() if not file.name.startswith("."))
        files = [file for file in present if file.name.endswith(SUFFIXES) and is_input(stem(file))]
        if not files:
            raise wrong("the folder must hold images to predict", listing(path))
    else:
        raise wrong("the input must exist", "no such file or folder")
    names = [stem(file) for file in files]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise wrong("each input must have a name of its own", f"{twice[0]} as .nii and .nii.gz")
    return [
        Case(id=name, patient=name, images=(file,)) for name, file in zip(names, files, strict=True)
    ]


def listing(folder: Path, limit: int = 5) -> str:
    """Return the first names in a folder, for messages."""
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{', '.join(names[:limit])}{more}" if names else "an empty folder"
