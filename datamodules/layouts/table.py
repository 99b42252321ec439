"""Layout of a CSV table: a row for each case with the paths of its files."""

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from datamodules.case import Case, DataError, Problem
from datamodules.layouts.found import Found, file_name, repeated
from datamodules.layouts.images import find_channels, find_labels
from datamodules.layouts.inputs import listing
from datamodules.layouts.labels import Value
from datamodules.reading.volumes import is_image

_IMAGE = re.compile(r"image(?:_(\w+))?")
_LABEL = re.compile(r"(?:label|reader)(?:_?(\w+))?")
_YES, _NO = ("1", "1.0", "true", "yes", "test"), ("", "0", "0.0", "false", "no", "train")
_KNOWN = "case, patient, image or image_<channel>, label or reader_<name>, test"
_FIX = f"Columns are: {_KNOWN}."


def read_table(
    root: Path,
    *,
    pixel_size: tuple[float, float] = (1.0, 1.0),
    stacked: bool = False,
    labels: Mapping[str, Value] | None = None,
) -> Found:
    """Return the dataset in a CSV file.

    Columns: ``case``; ``patient`` (else the case); ``image``, or ``image_<channel>`` for each
    channel; ``label``, or ``reader_<name>`` for each of several readers; ``test`` with 1 for the
    cases of the test set. Paths are relative to the file.

    Args:
        root: The CSV file, or a folder with one.
        pixel_size: Size of a pixel in mm along X and Y, for pictures.
        stacked: Whether the last axis of an image is that of its channels.
        labels: Label names and their values; None for those in the label files.

    Raises:
        DataError: There is no table, or it lacks columns or rows.
    """
    file = find_table(root)
    table = _read(file)
    images = [name for name in table.columns if _IMAGE.fullmatch(name)]
    readers = [name for name in table.columns if _LABEL.fullmatch(name)]
    other = [name for name in table if name not in {*images, *readers, "case", "patient", "test"}]
    problems = []

    def wrong(rule: str, found: str, fix: str = _FIX, case: str = "") -> None:
        problems.append(Problem(case, str(file), rule, found, fix))

    for name, there in (("case", "case" in table), ("image", images), ("label", readers)):
        if not there:
            wrong(f"the table must have a column {name}", ", ".join(table.columns))
    if not len(table):
        wrong("the table must have rows", "none", "Add a row for each case.")
    if problems:
        raise DataError(problems)
    cases, test = [], set()
    for number, row in enumerate(table.to_dict("records"), start=2):
        name = str(row["case"])
        if not name:
            wrong("every row must have a case", f"nothing in line {number}", "Fill it in.")
            continue
        lacking = [column for column in (*images, *readers) if not row[column]]
        if lacking:
            found = f"nothing in {lacking[0]} of line {number}"
            wrong("every row must have all images and labels", found, "Fill it in.", name)
            continue
        paths = {column: file.parent / str(row[column]) for column in (*images, *readers)}
        strange = [path for path in paths.values() if not is_image(path)]
        gone = [path for path in paths.values() if not path.exists()]
        for path in strange or gone:
            rule = "a file must be NIfTI or a picture" if strange else "the files must exist"
            problems.append(Problem(name, str(path), rule, path.name, f"Correct line {number}."))
        if strange or gone:
            continue
        own = [paths[column] for column in readers]
        cases.append(
            Case(
                file_name(name),
                str(row.get("patient") or name),
                tuple(paths[column] for column in images),
                own[0],
                readers=tuple(own[1:]),
                stacked=stacked,
                pixel_size=pixel_size,
            )
        )
        stated = str(row.get("test", "")).lower()
        if stated in _YES:
            test.add(cases[-1].id)
        elif stated not in _NO:
            rule, fix = "test must be 1 for cases of the test set, else 0 or empty", "Correct it."
            wrong(rule, f"{stated!r} in line {number}", fix, name)
    for name in repeated(case.id for case in cases):
        wrong("a case must be in one row", "more than one", "Rename one of them.", name)
    if labels is None:
        labels = find_labels(cases)
    channels = tuple(match[1] for name in images if (match := _IMAGE.fullmatch(name)) and match[1])
    if len(channels) != len(images):
        channels = find_channels(cases)
    notes = (f"{file}: not used: {', '.join(map(str, other))}. {_FIX}",) if other else ()
    return Found(
        file_name(file.absolute().parent.name if file.stem == "cases" else file.stem),
        tuple(sorted(cases, key=lambda case: case.id)),
        labels,
        channels,
        frozenset(test),
        problems=tuple(problems),
        notes=notes,
    )


def find_table(root: Path) -> Path:
    """Return the CSV file that ``root`` is or contains.

    Raises:
        DataError: There is none, or several.
    """
    rule = "the data root must be a CSV file, or a folder with one"
    if root.is_file():
        return root
    found = sorted(root.glob("*.csv")) if root.is_dir() else []
    if len(found) == 1:
        return found[0]
    there = ", ".join(path.name for path in found[:5])
    there = there or (listing(root) if root.is_dir() else "no such file")
    raise DataError([Problem("", str(root), rule, there, "Give the file (DATA_ROOT=cases.csv).")])


def _read(file: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        rule = "the table must be a CSV file"
        raise DataError([Problem("", str(file), rule, str(error)[:120], _FIX)]) from error
    table.columns = [str(name).strip().lower() for name in table.columns]
    return table.apply(lambda column: column.str.strip())
