"""Divides patients into train, val and test: by file, by official test set, or by hash."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from datamodules.case import Case, DataError, Problem, Survey

PARTS = ("train", "val", "test")
HOLDOUT = "holdout"  # part of held-out training patients for adaptive losses
Split = dict[str, list[str]]  # part -> patients, sorted

_NAME_SOME = "Name patients for it in the file."
_OTHER_SHARES = (
    "Give a split file with --data.init_args.division.split (make: SPLIT=FILE), or other fractions"
    " (--data.init_args.division.val_fraction, test_fraction)."
)
_FEWER_FOLDS = "Take fewer folds, or another one; or give a split file (make: SPLIT=FILE)."


@dataclass(frozen=True)
class Division:
    """How the patients are divided into train, val and test.

    Attributes:
        split: JSON file with the patients of train, val and test. None: the phantom's own split,
            else the official test set and a hash of the patients' names.
        fold: Which fold of the train and val patients validates; None for the split as it is.
        folds: Number of folds; ignored if the split file has folds.
        val_fraction: Expected share of validation patients, where patients are hashed.
        test_fraction: Expected share of test patients, if there is no official test set.
        adapt: Which cases a loss that adapts observes: those of ``val``, which also choose the best
            checkpoint, or a ``holdout``, a part of the training patients that then trains nothing.
        holdout_fraction: Share of the training patients in the holdout, rounded up.
        train_patients: Number of training patients that are used, chosen by a hash of their names
            so that fewer are a part of more; None for all.
        external: If True, the data are an external test set: all labeled patients are the test
            part, or those of the part test of the split file, which needs no other.
    """

    split: Path | None = None
    fold: int | None = None
    folds: int = 5
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    adapt: Literal["val", "holdout"] = "val"
    holdout_fraction: float = 0.1
    train_patients: int | None = None
    external: bool = False

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ValueError(f"folds must be at least 2, got {self.folds}.")
        divided = self.split is not None  # a file may have more folds
        if self.fold is not None and (self.fold < 0 or (self.fold >= self.folds and not divided)):
            most = "" if divided else f"{self.folds - 1}"
            raise ValueError(f"fold must be null or in 0..{most}, got {self.fold}.")
        shares = (self.val_fraction, self.test_fraction)
        if min(shares) < 0 or sum(shares) >= 1:
            raise ValueError(
                "val_fraction and test_fraction must be >= 0 and leave a share for training, "
                f"got {self.val_fraction} and {self.test_fraction}."
            )
        if self.adapt not in ("val", HOLDOUT):
            raise ValueError(f"adapt must be val or {HOLDOUT}, got {self.adapt!r}.")
        if not 0 < self.holdout_fraction < 1:
            raise ValueError(f"holdout_fraction must be in (0, 1), got {self.holdout_fraction}.")
        if self.train_patients is not None and self.train_patients < 1:
            raise ValueError(f"train_patients must be null or >= 1, got {self.train_patients}.")


def place(patient: str, salt: str = "split") -> float:
    """Return a number in [0, 1) that depends on the patient's name and the salt alone."""
    digest = hashlib.sha256(f"{salt}:{patient}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def hash_split(
    patients: Iterable[str],
    *,
    official_test: Iterable[str] = (),
    val_fraction: float,
    test_fraction: float,
) -> Split:
    """Divide patients by a hash of their names, so adding patients moves none.

    Args:
        patients: All patients with labels.
        official_test: Patients of the dataset's own test set. If there are any, they are the
            test set and ``test_fraction`` is not used.
        val_fraction: Expected share of validation patients among all that are hashed.
        test_fraction: Expected share of test patients, if there is no official test set.
    """
    official = set(official_test)
    share = 0.0 if official else test_fraction
    split: Split = {part: [] for part in PARTS}
    for patient in sorted(set(patients)):
        position = place(patient)
        if patient in official or position < share:
            split["test"].append(patient)
        else:
            split["val" if position < share + val_fraction else "train"].append(patient)
    return split


def fold_split(split: Split, fold: int, folds: int) -> Split:
    """Divide the train and val patients again: fold ``fold`` validates, test is kept.

    They are dealt out in the order of their names' hashes, so folds differ by one patient at most.
    """
    pool = sorted(split["train"] + split["val"])
    inside = set(sorted(pool, key=lambda patient: place(patient, "fold"))[fold::folds])
    return {
        "train": [patient for patient in pool if patient not in inside],
        "val": [patient for patient in pool if patient in inside],
        "test": split["test"],
    }


def read_split(
    path: Path, fold: int | None = None, *, external: bool = False
) -> tuple[Split, bool]:
    """Read a split from JSON.

    The file contains one split, an object with the lists of patients train, val and test; or
    folds, ``{"folds": [split, ...]}``, of which ``fold`` is read; or nnU-Net's folds (its
    splits_final.json), a list of objects with the cases train and val, returned without test.
    Of an ``external`` test set the part test is enough.

    Returns:
        The split, and True if it is already the fold.

    Raises:
        DataError: The file is missing, is not such an object, or holds folds and none or one that
            it does not have is asked for.
    """
    expected = 'Expected {"train": ["patient001", ...], "val": [...], "test": [...]}.'

    def wrong(rule: str, found: str, fix: str = expected) -> DataError:
        return DataError([Problem("", str(path), rule, found, fix)])

    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise wrong("the split file must be readable", error.strerror or str(error)) from error
    except ValueError as error:
        raise wrong("the split file must be JSON", str(error)) from error
    folds = content.get("folds") if isinstance(content, Mapping) else None
    if isinstance(content, list):
        if not all(isinstance(one, Mapping) and set(one) == {"train", "val"} for one in content):
            raise wrong("a list of folds must have objects with train and val", repr(content)[:80])
        folds = content
    if isinstance(folds, list):
        if not folds:
            raise wrong("the split file must contain a split or folds", "an empty list of folds")
        if fold is None or fold >= len(folds):
            raise wrong(
                f"one of the {len(folds)} folds of the file must be chosen",
                "none" if fold is None else f"fold {fold}",
                f"Give --data.init_args.division.fold 0 to {len(folds) - 1} (make: FOLD=k).",
            )
        content = folds[fold]
        if set(content) == {"train", "val"}:
            content = {**content, "test": None}
    if external and isinstance(content, Mapping) and "test" in content:
        content = {"train": [], "val": [], **content}
    if not isinstance(content, Mapping) or set(content) != set(PARTS):
        keys = sorted(content) if isinstance(content, Mapping) else type(content).__name__
        raise wrong("the split file must have exactly the parts train, val and test", str(keys))
    parts = [part for part in PARTS if content[part] is not None]
    for part in parts:
        names = content[part]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise wrong(f"the part {part} must be a list of patients' names", repr(names)[:80])
    return {part: list(content[part]) for part in parts}, isinstance(folds, list)


def split_problems(
    split: Split,
    patients: Iterable[str],
    source: str,
    *,
    fix: str = _NAME_SOME,
    needed: Sequence[str] = PARTS,
) -> list[Problem]:
    """Return what is wrong with a split: unknown patients, patients named twice, empty parts.

    Args:
        split: The split.
        patients: All patients the dataset has with labels.
        source: Origin of the split: a file, or a description of the rule.
        fix: The way out where a part is empty.
        needed: The parts that must not be empty.
    """
    known, problems = set(patients), []
    seen: dict[str, str] = {}
    for part in PARTS:
        for patient in split[part]:
            if patient in seen:
                where = f"it in {seen[patient]} and again in {part}"
                problems.append(
                    Problem(
                        patient,
                        source,
                        "a patient must be in one part of the split, once",
                        where,
                        "Remove all but one of the entries.",
                    )
                )
            elif patient not in known:
                problems.append(
                    Problem(
                        patient,
                        source,
                        "the split must name patients that the dataset has with labels",
                        f"an unknown patient in {part}",
                        _way_to_patient(patient, known),
                    )
                )
            seen.setdefault(patient, part)
        if not split[part] and part in needed:
            rule = f"the part {part} of the split must not be empty"
            found = f"no patient among {len(known)} with labels"
            problems.append(Problem("", source, rule, found, fix))
    return problems


def _way_to_patient(name: str, known: Iterable[str]) -> str:
    """Return the fix for a split with names that are not patients, such as cases."""
    owner = next((other for other in known if name.startswith((f"{other}-", f"{other}_"))), None)
    if owner is not None:
        return f"Name the patient, {owner}: a split is one of patients, with all their cases."
    return "Correct the name, or restore the patient's files."


def resolve_split(survey: Survey, division: Division, *, refold: bool = False) -> Split:
    """Return the split of a dataset: from the file if there is one, else by hash; then the fold.

    A file with folds of its own (:func:`read_split`) is asked for its fold, and ``folds`` says
    nothing, unless ``refold`` asks for new folds.

    Raises:
        DataError: The file is not a split, or the split is not one of this dataset; there is no
            such fold; or a fold is to be made of a file that has its own.
    """
    file, fold, folds = division.split, division.fold, division.folds
    divided_already, fix = False, _OTHER_SHARES
    if division.external:
        split, source = {"train": [], "val": [], "test": sorted(survey.patients)}, "all patients"
        if file is not None:
            (split, _), source = read_split(file, fold, external=True), str(file)
            if "test" not in split:
                rule, fix = "the split file must have the part test", 'Write {"test": [...]}.'
                raise DataError([Problem("", source, rule, "folds of train and val", fix)])
            split = {"train": [], "val": [], "test": split["test"]}
        problems = split_problems(split, survey.patients, source, needed=("test",))
        if problems:
            raise DataError(problems)
        return split
    if file is not None:
        (split, divided_already), source = read_split(file, fold), str(file)
        fix = _NAME_SOME
        if "test" not in split:
            split = split_of_cases(split, survey, division.val_fraction, source)
        if divided_already and refold:
            rule = "a split file to divide into folds must contain one split"
            raise DataError([Problem("", str(file), rule, "folds", "Use them: SPLIT=FILE FOLD=k.")])
    else:
        split = hash_split(
            survey.patients,
            official_test=survey.official_test,
            val_fraction=division.val_fraction,
            test_fraction=division.test_fraction,
        )
        source = "hash of the patients' names"
    if fold is not None and not divided_already:
        if fold >= folds:
            rule = "the fold must be one of those that the patients are divided into"
            way = f"Take 0 to {folds - 1}, or more folds with --data.init_args.division.folds."
            raise DataError([Problem("", source, rule, f"fold {fold} of {folds}", way)])
        fix = _FEWER_FOLDS
        split = fold_split(split, fold, folds)
        source += f", fold {fold} of {folds}"
    if problems := split_problems(split, survey.patients, source, fix=fix):
        raise DataError(problems)
    return {part: sorted(split[part]) for part in PARTS}


def split_of_cases(split: Split, survey: Survey, val_fraction: float, source: str) -> Split:
    """Return the split of patients for a fold of nnU-Net, which names cases for train and val.

    The cases of val, on which nnU-Net reports, are the test part, and ``val_fraction`` of the
    others validates, by a hash of the patients' names; with a test set of the dataset, val stays.

    Raises:
        DataError: There is no such case.
    """
    patient_of = {case.id: case.patient for case in survey.cases}
    names = [name for part in split.values() for name in part]
    known = patient_of.keys() | {problem.case for problem in survey.problems}
    rule, fix = "a fold must name cases of the dataset", "Correct the name, or restore its files."
    if unknown := sorted(set(names) - known):
        raise DataError([Problem(name, source, rule, "no such case", fix) for name in unknown])
    train, val = (
        sorted({patient_of.get(name, name) for name in split[part]}) for part in ("train", "val")
    )
    if survey.official_test:
        return {"train": train, "val": val, "test": sorted(survey.official_test)}
    order = sorted(train, key=lambda patient: place(patient, "val"))
    number = max(1, round(val_fraction * len(order)))
    return {"train": sorted(order[number:]), "val": sorted(order[:number]), "test": val}


def fewer(split: Split, patients: int) -> Split:
    """Keep ``patients`` of the training patients, those with the smallest hashes.

    Raises:
        DataError: There are fewer.
    """
    order = sorted(split["train"], key=lambda patient: place(patient, "fewer"))
    if patients > len(order):
        rule = f"the part train must have the {patients} patients that are to be used"
        fix = f"Lower TRAIN_PATIENTS (--train-patients), at most {len(order)}."
        raise DataError([Problem("", "train_patients", rule, f"{len(order)}", fix)])
    return split | {"train": sorted(order[:patients])}


def hold_out(split: Split, fraction: float) -> Split:
    """Move the share ``fraction`` of the training patients, at least one, to a separate part.

    Those with the smallest hashes are moved, so one more patient moves at most one.

    Raises:
        DataError: No patient would be left to train on.
    """
    order = sorted(split["train"], key=lambda patient: place(patient, HOLDOUT))
    number = math.ceil(fraction * len(order))
    if number == len(order):
        problem = Problem(
            "",
            f"{fraction:g} of the training patients held out",
            "the part train of the split must not be empty",
            f"{number} of {len(order)} patients held out for an adaptive loss",
            "Lower --data.init_args.division.holdout_fraction, or give "
            "--data.init_args.division.adapt val (make: ADAPT=val).",
        )
        raise DataError([problem])
    return split | {"train": sorted(order[number:]), HOLDOUT: sorted(order[:number])}


def divided(survey: Survey, split: Split) -> dict[str, list[Case]]:
    """Return the cases of each part, in the survey's order.

    Raises:
        DataError: A patient of the split has problems, or the dataset as a whole has.
    """
    patients = {patient for names in split.values() for patient in names}
    concerned = [fault for fault in survey.problems if fault.case in patients | {""}]
    if concerned:
        raise DataError(concerned)
    return {
        part: [case for case in survey.cases if case.patient in names]
        for part, names in split.items()
    }
