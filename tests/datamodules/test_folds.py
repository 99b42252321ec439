"""Folds by patient: written once, used by number; and the inputs of several modalities."""

import json
from pathlib import Path

import numpy as np
import pytest

from datamodules import DataError
from datamodules.layouts.inputs import group_inputs
from datamodules.splits import read_split
from mbls.cli import main
from tests.datamodules.conftest import save

ENDINGS = (("_t1", "-t1n"), ("_t1ce", "-t1c"))


def write_folds(acdc: Path, output: Path, folds: int = 3) -> int:
    args = ["splits", "--dataset", "acdc", "--data-root", str(acdc), "--folds", str(folds)]
    return main([*args, "--output", str(output)])


def test_folds_are_written_and_used(
    acdc: Path, module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "made" / "folds.json"
    assert write_folds(acdc, file) == 0
    folds = json.loads(file.read_text())["folds"]
    validated = [patient for fold in folds for patient in fold["val"]]
    assert sorted(validated) == [f"patient{n:03d}" for n in range(1, 9)]
    for number, fold in enumerate(folds):
        assert fold["test"] == ["patient101", "patient102"]
        assert sorted(fold["train"] + fold["val"]) == sorted(validated)
        by_file = module(split=file, fold=number)
        by_number = module(fold=number, folds=3)
        for part in ("train", "val", "test"):
            assert sorted(set(by_file.patients(part))) == fold[part]
            assert by_file.cases(part) == by_number.cases(part)
    assert write_folds(acdc, file) == 0  # the same again
    capsys.readouterr()
    assert write_folds(acdc, file, folds=2) == 1
    assert "exists with other folds" in capsys.readouterr().err


@pytest.mark.parametrize("fold", [None, 3])
def test_a_file_with_folds_needs_one_it_has(module, tmp_path: Path, fold: int | None) -> None:
    split = {"train": ["patient001"], "val": ["patient002"], "test": ["patient101"]}
    (tmp_path / "folds.json").write_text(json.dumps({"folds": [split] * 3}))
    with pytest.raises(DataError, match=r"one of the 3 folds.*division.fold 0 to 2"):
        module(split=tmp_path / "folds.json", fold=fold).cases("train")


def test_a_file_has_as_many_folds_as_it_has(acdc: Path, module, tmp_path: Path) -> None:
    """Not the number of the setting, which is for patients that are divided here."""
    split = {"train": ["patient001"], "val": ["patient002"], "test": ["patient101"]}
    (tmp_path / "folds.json").write_text(json.dumps({"folds": [split] * 8}))
    built = module(split=tmp_path / "folds.json", fold=7, folds=5)
    assert built.patients("train") == ["patient001"] * 2
    (tmp_path / "split.json").write_text(json.dumps(split))
    with pytest.raises(DataError, match=r"found fold 7 of 5 .*split\.json.*Take 0 to 4"):
        module(split=tmp_path / "split.json", fold=7, folds=5).cases("train")


def test_folds_are_not_divided_again(
    acdc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of a file's three folds would leave patients out without a warning."""
    file = tmp_path / "folds.json"
    assert write_folds(acdc, file) == 0
    words = ["splits", "--dataset", "acdc", "--data-root", str(acdc), "--folds", "2"]
    other = tmp_path / "other.json"
    words += ["--output", str(other), "--data.init_args.division.split", str(file)]
    assert main(words) == 1
    assert "must contain one split, found folds" in capsys.readouterr().err
    assert not other.exists()


def test_folds_that_cannot_be(acdc: Path, tmp_path: Path, capsys) -> None:
    assert write_folds(acdc, tmp_path / "folds.json", folds=1) == 2
    assert "--folds must be at least 2, got 1" in capsys.readouterr().err
    assert write_folds(acdc, tmp_path / "folds.json", folds=40) == 1
    err = capsys.readouterr().err
    assert "part val of the split must not be empty" in err
    assert "Take fewer folds" in err
    (tmp_path / "none.json").write_text(json.dumps({"folds": []}))
    with pytest.raises(DataError, match=r"must contain a split or folds, found an empty list"):
        read_split(tmp_path / "none.json", 0)


def test_a_patient_in_two_parts_of_a_fold(module, tmp_path: Path) -> None:
    split = {"train": ["patient001"], "val": ["patient001"], "test": ["patient101"]}
    (tmp_path / "folds.json").write_text(json.dumps({"folds": [split]}))
    with pytest.raises(DataError, match="patient001: a patient must be in one part of the split"):
        module(split=tmp_path / "folds.json", fold=0).cases("train")


def modality(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        save(folder / f"{name}.nii.gz", np.arange(27.0).reshape(3, 3, 3))
    return folder


def test_modalities_are_joined_by_the_name_before_their_ending(tmp_path: Path) -> None:
    modality(tmp_path / "b", "b_t1", "b_t1ce", "b_seg")
    modality(tmp_path / "a", "BraTS-GLI-1-t1c", "BraTS-GLI-1-t1n")
    cases = group_inputs(tmp_path, ENDINGS)
    assert [case.id for case in cases] == ["BraTS-GLI-1", "b"]
    assert [path.name for path in cases[1].images] == ["b_t1.nii.gz", "b_t1ce.nii.gz"]
    assert [path.name[12:15] for path in cases[0].images] == ["t1n", "t1c"]
    assert group_inputs(tmp_path / "b", ENDINGS) == [cases[1]]


def test_missing_and_doubled_modalities_are_all_listed(tmp_path: Path) -> None:
    modality(tmp_path / "a", "a_t1")
    modality(tmp_path / "b", "b_t1", "b_t1ce", "b-t1n")
    with pytest.raises(DataError) as error:
        group_inputs(tmp_path, ENDINGS)
    found = [(fault.case, fault.rule, fault.found) for fault in error.value.problems]
    assert found == [
        ("a", "a case must have one file *_t1ce.nii.gz", "0"),
        ("b", "a case must have one file *_t1.nii.gz", "2"),
    ]
    with pytest.raises(DataError, match="must contain images"):
        group_inputs(modality(tmp_path / "c", "x_seg"), ENDINGS)
    with pytest.raises(DataError, match=r"given as a folder.*\*_t1.nii.gz, \*_t1ce.nii.gz"):
        group_inputs(tmp_path / "a" / "a_t1.nii.gz", ENDINGS)
