"""Patients, never cases, are split; adding patients moves none."""

import json
from itertools import chain
from pathlib import Path

import pytest

from datamodules import DataError
from datamodules.loading import loaders
from datamodules.splits import (
    PARTS,
    fold_split,
    hash_split,
    hold_out,
    place,
    read_split,
    split_problems,
)

NAMES = [f"patient{n:03d}" for n in range(1, 101)]


def test_place_is_fixed() -> None:
    """Worked out with sha256sum: `printf split:patient001 | sha256sum` begins 216959a8a6cc."""
    assert place("patient001") == int("216959a8a6cc", 16) / 2**48
    assert place("patient001", "fold") != place("patient001")


def test_shares_and_stability() -> None:
    split = hash_split(NAMES, val_fraction=0.1, test_fraction=0.2)
    assert sorted(chain(*split.values())) == NAMES
    assert 10 <= len(split["test"]) <= 30
    assert 3 <= len(split["val"]) <= 18
    fewer = hash_split(NAMES[::3], val_fraction=0.1, test_fraction=0.2)
    for part in PARTS:
        assert set(fewer[part]) == set(split[part]) & set(NAMES[::3])


def test_official_test_set_is_the_test_set() -> None:
    official = NAMES[50:]
    split = hash_split(NAMES, official_test=official, val_fraction=0.1, test_fraction=0.2)
    assert split["test"] == official
    alone = hash_split(NAMES[:50], val_fraction=0.1, test_fraction=0.0)
    assert (split["train"], split["val"]) == (alone["train"], alone["val"])


def test_folds_cover_each_patient_once() -> None:
    split = hash_split(NAMES, val_fraction=0.1, test_fraction=0.2)
    folds = [fold_split(split, fold, 5) for fold in range(5)]
    assert sorted(chain(*(fold["val"] for fold in folds))) == sorted(split["train"] + split["val"])
    sizes = [len(fold["val"]) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    for fold in folds:
        assert fold["test"] == split["test"]
        assert not set(fold["train"]) & set(fold["val"])


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "must be JSON"),
        ([], r"an empty list of folds"),
        ({"train": [], "val": []}, r"exactly the parts.*\['train', 'val'\]"),
        ({"train": [], "val": [], "test": [], "x": []}, "exactly the parts"),
        ({"train": "patient001", "val": [], "test": []}, "train must be a list"),
        ({"train": [1], "val": [], "test": []}, "train must be a list"),
    ],
)
def test_not_a_split(tmp_path: Path, content: object, match: str) -> None:
    with pytest.raises(DataError, match=match):
        read_split(write(tmp_path / "split.json", content))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be readable, found No such file"):
        read_split(tmp_path / "split.json")


def test_problems_of_a_split() -> None:
    split = {"train": ["a", "b", "b", "c"], "val": ["a", "x"], "test": []}
    texts = [str(problem) for problem in split_problems(split, ["a", "b", "c"], "split.json")]
    assert [text.split(":")[0] for text in texts[:3]] == ["b", "a", "x"]
    assert "one part of the split, once, found it in train and again in train" in texts[0]
    assert "found it in train and again in val (split.json)" in texts[1]
    assert "found an unknown patient in val" in texts[2]
    assert "the part test of the split must not be empty" in texts[3]


@pytest.mark.parametrize("case", ["BraTS-GLI-00000-001", "patient007_frame01"])
def test_a_case_in_place_of_its_patient(case: str) -> None:
    patients = ["BraTS-GLI-00000", "BraTS-GLI-0000", "patient007", "patient00"]
    split = {"train": [case], "val": ["patient00"], "test": ["BraTS-GLI-0000"]}
    (problem,) = split_problems(split, patients, "split.json")
    owner = "BraTS-GLI-00000" if "GLI" in case else "patient007"
    assert problem.fix.startswith(f"Name the patient, {owner}:")


def test_split_file_in_use(acdc: Path, tmp_path: Path, module) -> None:
    """A patient with problems who is in no part does not matter."""
    (acdc / "training/patient008/Info.cfg").unlink()
    content = {"train": ["patient007", "patient001"], "val": ["patient002"], "test": ["patient101"]}
    file = write(tmp_path / "split.json", content)
    built = module(split=file)
    built.prepare(progress=False)
    assert [name[:10] for name in built.cases("train")[::2]] == ["patient001", "patient007"]
    assert built.cases("test") == ["patient101_frame01", "patient101_frame09"]
    write(file, content | {"val": ["patient007", "patient099"]})
    with pytest.raises(DataError, match=r"patient007: .*\n- patient099: .*unknown patient in val"):
        module(split=file).prepare(progress=False)
    texts = [str(problem) for problem in module(split=file).check(progress=False)]
    assert len(texts) == 3


def test_held_out_patients_leave_training_alone(module) -> None:
    """Least hashes go: a patient more moves one at most, and the other parts keep theirs."""
    names = [f"patient{n:03d}" for n in range(1, 41)]
    split = {"train": names, "val": ["a"], "test": ["b"]}
    found = hold_out(split, 0.1)
    assert len(found["holdout"]) == 4
    assert sorted(found["train"] + found["holdout"]) == names
    assert max(place(p, "holdout") for p in found["holdout"]) < min(
        place(p, "holdout") for p in found["train"]
    )
    more = hold_out(split | {"train": [*names, "patient041"]}, 0.1)["holdout"]
    assert len(set(found["holdout"]) - set(more)) <= 1
    with pytest.raises(DataError, match=r"part train .*must not be empty.*1 of 1 patients held"):
        hold_out(split | {"train": ["a"]}, 0.1)


def test_holdout_in_use(module) -> None:
    whole, built = module(), module(adapt="holdout", holdout_fraction=0.3)
    built.prepare(progress=False)
    cases = built.cases("holdout")
    assert set(built.patients("holdout")).isdisjoint(built.patients("train"))
    assert sorted(cases + built.cases("train")) == sorted(whole.cases("train"))
    assert all(built.cases(part) == whole.cases(part) for part in ("val", "test"))
    assert {case[:10] for case in cases} == set(built.patients("holdout"))  # both frames of each
    val, holdout = built.val_dataloader()
    for loader, part in ((val, "val"), (holdout, "holdout")):
        batches = list(loader)
        assert [batch["case"][0] for batch in batches] == built.cases(part)
        assert [int(batch["index"]) for batch in batches] == list(range(len(batches)))
    trained = {name for batch in built.train_dataloader() for name in batch["case"]}
    assert trained.isdisjoint(cases)
    whole.prepare(progress=False)
    assert built.fingerprint != whole.fingerprint
    assert module().fingerprint == whole.fingerprint
    assert built.fold_splits(2) == whole.fold_splits(2)
    with pytest.raises(ValueError, match=r"split must be train, val, test or predict, got 'hold"):
        whole.cases("holdout")


@pytest.mark.parametrize("world", [2, 3])
def test_each_case_held_out_is_scored_on_one_rank(module, monkeypatch, world: int) -> None:
    built = module(adapt="holdout", holdout_fraction=0.4)
    built.prepare(progress=False)
    seen, lengths = [], set()
    for rank in range(world):
        monkeypatch.setattr(loaders, "rank_and_world", lambda rank=rank: (rank, world))
        batches = list(built.val_dataloader()[1])
        lengths.add(len(batches))
        seen += [batch["case"][0] for batch in batches if bool(batch["scored"])]
    assert sorted(seen) == sorted(built.cases("holdout"))
    assert len(lengths) == 1


def test_a_holdout_that_leaves_no_patient_is_a_problem(module) -> None:
    built = module(adapt="holdout", holdout_fraction=0.99)
    (text,) = map(str, built.check(progress=False))
    assert "Lower --data.init_args.division.holdout_fraction, or give" in text
    assert "--data.init_args.division.adapt val" in text
    with pytest.raises(ValueError, match=r"holdout_fraction must be in \(0, 1\), got 1"):
        module(holdout_fraction=1)
    with pytest.raises(ValueError, match="adapt must be val or holdout, got 'test'"):
        module(adapt="test")


def test_empty_part(module) -> None:
    with pytest.raises(DataError, match="the part val of the split must not be empty"):
        module(val_fraction=0.0).prepare(progress=False)


def test_phantom_ships_its_split(acdc: Path, module) -> None:
    (acdc.parent / "phantom.json").write_text("{}")
    content = {"train": ["patient001"], "val": ["patient002"], "test": ["patient003"]}
    write(acdc.parent / "split.json", content)
    for root in (acdc, acdc.parent):
        assert module(root).cases("test") == ["patient003_frame01", "patient003_frame09"]
