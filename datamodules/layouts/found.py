"""What a layout finds in a folder that describes itself."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datamodules.case import Case, DataError, Problem, Survey
from datamodules.layouts.inputs import listing
from datamodules.layouts.labels import Value


@dataclass(frozen=True)
class Found:
    """A dataset as its folder describes it.

    Attributes:
        name: Its name, usable as a file name.
        cases: The labeled cases, sorted by id; a patient for each until :func:`group_patients`.
        labels: Value, color or values of each label name.
        channels: Names of the channels, such as CT or T2.
        test: Ids of the cases of the dataset's own test set.
        split: The dataset's own split or folds, if there is a file.
        problems: What is wrong.
        notes: What is right but should be known.
    """

    name: str
    cases: tuple[Case, ...]
    labels: Mapping[str, Value]
    channels: tuple[str, ...]
    test: frozenset[str] = frozenset()
    split: Path | None = None
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def survey(self) -> Survey:
        """The cases and patients of the folder."""
        blamed = {problem.case for problem in self.problems} - {""}
        patients = frozenset(case.patient for case in self.cases)
        test = frozenset(case.patient for case in self.cases if case.id in self.test)
        notes, problems = self.notes, list(self.problems)
        for case in self.cases:
            if case.patient in test and case.id not in self.test:
                rule = "a patient must be in one part of the split"
                found = f"patient {case.patient} in the test set and outside"
                fix = "Correct the regular expression (PATIENT), or move the case."
                problems.append(Problem(case.id, str(case.images[0]), rule, found, fix))
        return Survey(self.cases, patients | blamed, test, tuple(problems), notes)


def group_patients(found: Found, pattern: str | None) -> Found:
    """Return what was found with the patients that a regular expression finds in the case ids.

    Args:
        found: The dataset, with a patient for each case.
        pattern: The expression; its first group, or the whole match, is the patient.

    Raises:
        ValueError: The expression is not valid.
    """
    if pattern is None:
        return found
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"patient must be a regular expression such as '^[^_]+', got {pattern!r}: {error}."
        ) from error
    cases, unmatched = [], []
    for case in found.cases:
        match = expression.search(case.id)
        if match is None or not (name := match.group(1 if expression.groups else 0)):
            unmatched.append(case.id)
            continue
        cases.append(replace(case, patient=name))
    problems = list(found.problems)
    if unmatched:
        rule = f"the regular expression {pattern!r} must find the patient in every case's name"
        first = ", ".join(unmatched[:3]) + (", ..." if len(unmatched) > 3 else "")
        text = f"no match in {len(unmatched)} of {len(found.cases)} names: {first}"
        fix = "Correct it: PATIENT='regex' (--patient)."
        problems.append(Problem("", "patient", rule, text, fix))
    return replace(found, cases=tuple(cases), problems=tuple(problems))


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Return the object in a JSON file that describes a dataset.

    Raises:
        DataError: It is missing, cannot be read, or is no object.
    """
    if not path.is_file():
        root = path.parent
        there = listing(root) if root.is_dir() else "no such folder"
        below = sorted(root.glob(f"*/{path.name}")) if root.is_dir() else []
        fix = f"Give {below[0].parent.absolute()}." if below else "Correct the path (DATA_ROOT)."
        raise DataError([Problem("", str(root), f"{what} must have a {path.name}", there, fix)])
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        found, fix = error.strerror or str(error), "Change its permissions."
    except ValueError as error:
        found, fix = str(error), "Repair the file."
    else:
        if isinstance(content, dict):
            return content
        found, fix = f"a {type(content).__name__}", "Repair the file."
    raise DataError([Problem("", str(path), f"{path.name} must be a JSON object", found, fix)])


def file_name(text: str) -> str:
    """Return a text as a file name: letters, digits, ``.``, ``-`` and ``_``."""
    return re.sub(r"[^\w.-]+", "_", text).strip("._") or "dataset"


def repeated(ids: Iterable[str]) -> list[str]:
    """Return the ids that occur more than once."""
    return sorted(name for name, count in Counter(ids).items() if count > 1)
