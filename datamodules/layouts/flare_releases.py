"""What the releases of FLARE label, and how they name their cases."""

import re
from dataclasses import dataclass
from typing import Literal

ReleaseName = Literal["flare21", "flare22", "abdomenct1k"]

_FOUR = ("liver", "kidneys", "spleen", "pancreas")


@dataclass(frozen=True)
class Release:
    """A release.

    Attributes:
        name: As the setting has it.
        title: As it is known.
        organs: Names of the labels from 1 on.
        keys: The same, short, for logged names.
        training: What the name of a labeled training case matches.
        tuning: Pattern of case names of its validation set.
        unlabeled: Pattern of names of cases without labels.
        expected: Location of images and labels, for messages.
    """

    name: ReleaseName
    title: str
    organs: tuple[str, ...]
    keys: tuple[str, ...]
    training: re.Pattern[str]
    tuning: re.Pattern[str]
    unlabeled: re.Pattern[str]
    expected: str


_NONE = re.compile(r"(?!)")

RELEASES: dict[ReleaseName, Release] = {
    "flare21": Release(
        "flare21",
        "FLARE21",
        _FOUR,
        _FOUR,
        training=re.compile(r"train_\d+"),
        tuning=re.compile(r"validation_\d+"),
        unlabeled=re.compile(r"test_\d+"),
        expected="TrainingImg/train_000_0000.nii.gz with TrainingMask/train_000.nii.gz",
    ),
    "flare22": Release(
        "flare22",
        "FLARE22",
        (
            *("liver", "right kidney", "spleen", "pancreas", "aorta", "inferior vena cava"),
            *("right adrenal", "left adrenal", "gallbladder", "oesophagus", "stomach"),
            *("duodenum", "left kidney"),
        ),
        (
            *("liver", "rkidney", "spleen", "pancreas", "aorta", "ivc", "radrenal", "ladrenal"),
            *("gallbladder", "oesophagus", "stomach", "duodenum", "lkidney"),
        ),
        training=re.compile(r"FLARE22_Tr_\d+"),
        tuning=re.compile(r"FLARETs_\d+"),
        unlabeled=re.compile(r"Case_\d+"),
        expected="images/FLARE22_Tr_0001_0000.nii.gz with labels/FLARE22_Tr_0001.nii.gz",
    ),
    "abdomenct1k": Release(
        "abdomenct1k",
        "AbdomenCT-1K",
        _FOUR,
        _FOUR,
        training=re.compile(r"Case_\d+"),
        tuning=_NONE,
        unlabeled=_NONE,
        expected="imagesTr/Case_00001_0000.nii.gz with labels/Case_00001.nii.gz",
    ),
}


def release_of(case: str) -> Release | None:
    """Return the release whose labeled cases are named like ``case``, or None."""
    return next(
        (
            release
            for release in RELEASES.values()
            if release.training.fullmatch(case) or release.tuning.fullmatch(case)
        ),
        None,
    )
