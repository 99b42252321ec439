"""Folders without permission to list: an error, never taken for empty ones."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules import ACDCDataModule, BraTSDataModule, FLAREDataModule
from datamodules.case import DataError
from tests.datamodules.conftest import write_patient
from tests.datamodules.test_brats import write_release
from tests.datamodules.test_flare import three

Close = Callable[[Path], None]


@pytest.fixture
def close(monkeypatch: pytest.MonkeyPatch) -> Close:
    """Close a folder to everybody; root may list any."""
    access = os.access

    def shut(folder: Path) -> None:
        monkeypatch.setattr(
            os, "access", lambda path, mode: Path(path) != folder and access(path, mode)
        )

    return shut


def acdc(root: Path) -> Path:
    for number in (1, 2):
        write_patient(root / "training" / f"patient{number:03d}")
    write_patient(root / "testing" / "patient101")
    return root


@pytest.mark.parametrize(
    ("kind", "write", "closed"),
    [
        (ACDCDataModule, acdc, "testing"),
        (ACDCDataModule, acdc, "training/patient002"),
        (BraTSDataModule, lambda root: write_release(root, "2021").parent, None),
        (FLAREDataModule, three, "FLARE21/TrainingMask"),
    ],
    ids=["acdc part", "acdc patient", "brats", "flare"],
)
def test_a_closed_folder(
    tmp_path: Path, close: Close, kind: Any, write: Callable[[Path], Path], closed: str | None
) -> None:
    root = write(tmp_path / "data")
    folder = next(root.glob("*/BraTS2021_00002")) if closed is None else root / closed
    close(folder)
    problems = kind(root, cache_dir=tmp_path / "cache").check(progress=False)
    printed = [problem for problem in problems if problem.path == str(folder)]
    assert [problem.rule for problem in printed] == ["every folder must be readable"]


@pytest.mark.parametrize("kind", [ACDCDataModule, BraTSDataModule])
def test_a_closed_folder_to_predict(tmp_path: Path, close: Close, kind: Any) -> None:
    close(tmp_path)
    with pytest.raises(DataError, match="readable, found no permission"):
        kind(predict_input=tmp_path).cases("predict")
