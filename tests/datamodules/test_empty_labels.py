"""Cases without any structure: cached, sampled, validated and tested like any other."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from datamodules import (
    ACDCDataModule,
    BraTSDataModule,
    FLAREDataModule,
    SegmentationDataModule,
)
from mbls.cli import main
from mbls.loggers.metrics_csv import read_rows
from tests import few, tiny
from tests.datamodules.conftest import blobs, save, write_patient
from tests.datamodules.test_brats import write_case
from tests.datamodules.test_flare import IMAGE, LABEL
from tests.grouped import grouped

PATIENTS = 8


def write_acdc(root: Path) -> type[SegmentationDataModule]:
    for number in range(1, PATIENTS + 1):
        write_patient(root / "training" / f"patient{number:03d}")
    return ACDCDataModule


def write_brats(root: Path) -> type[SegmentationDataModule]:
    for number in range(1, PATIENTS + 1):
        write_case(root / f"BraTS2021_{number:05d}")
    return BraTSDataModule


def write_flare(root: Path) -> type[SegmentationDataModule]:
    for number in range(1, PATIENTS + 1):
        image, label = blobs(number, (12, 12, 8))
        for name, data in ((IMAGE, image), (LABEL, label)):
            path = root / name.format(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            save(path, data)
    return FLAREDataModule


def empty(path: Path) -> None:
    """Leave background alone in a label."""
    label = nib.load(path)
    save(path, np.zeros(label.shape, np.uint8), label.affine)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("write", [write_acdc, write_brats, write_flare])
def test_a_case_without_structures_is_a_case(write: Any, dims: int, tmp_path: Path) -> None:
    root = tmp_path / "root"
    dataset = write(root)
    settings: dict[str, Any] = {
        "cache_dir": tmp_path / "cache",
        "spatial_dims": dims,
        "patch_size": (8,) * dims,
        "foreground": 1.0,
        "batch_size": 2,
        "crop": "random",
        "crop_above": 0.0,
        "split": tmp_path / "split.json",
    }
    survey = dataset(root).discover(root)
    patients = sorted(survey.patients)
    split = {"train": patients[:4], "val": patients[4:6], "test": patients[6:]}
    settings["split"].write_text(json.dumps(split))
    without = {patients[0], patients[4], patients[6]}
    for case in survey.cases:
        if case.patient in without:
            empty(case.label)
    data = dataset(root, **grouped(**settings))
    assert data.check(progress=False) == []
    data.prepare(progress=False)
    data.setup("fit")
    shown = {
        (part, case): bool((label > 0).any())
        for part in ("train", "val", "test")
        for batch in getattr(data, f"{part}_dataloader")()
        for case, label in zip(batch["case"], batch["label"], strict=True)
    }
    emptied = {case.id for case in survey.cases if case.patient in without}
    assert {case for (_, case), there in shown.items() if not there} == emptied
    assert len(shown) == len(survey.cases)
    case = next(case for case in survey.cases if case.id in emptied)
    again = dataset(root, **grouped(**settings)).preparer
    found = again.cache.find(case)
    assert found is not None
    assert found.damaged() == []
    assert not any(found.facts["places"])


@pytest.mark.filterwarnings("ignore:.*(torch.jit|workers|lr_scheduler)")
def test_a_validation_without_structures_chooses_by_nll(tmp_path: Path) -> None:
    args = few.acdc_args(tmp_path)
    root = tmp_path / "ACDC" / "database"
    patients = [f"patient{number:03d}" for number in range(1, 9)]
    split = {"train": patients[:5], "val": patients[5:], "test": ["patient101", "patient102"]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    for patient in [*patients, "patient102"]:  # nor is there any to learn, so that NLL falls
        for path in root.glob(f"*/{patient}/*_gt.nii.gz"):
            empty(path)
    args += ["--epochs", "3", "--data.init_args.division.split", str(tmp_path / "split.json")]
    with pytest.warns(UserWarning, match="val/dice is NaN.*the lowest val/nll"):
        assert main(["train", *args]) == 0
    run = tiny.run_folder(tmp_path)
    rows = read_rows(run / "metrics.csv")
    nll = [float(row["val/nll"]) for row in rows]
    assert {row["val/dice"] for row in rows} == {"nan"}
    best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    assert best["epoch"] == np.argmin(nll) > 0
    dice = json.loads((run / "test/best/metrics.json").read_text())["dice"]
    assert {name: entry["n_cases"] for name, entry in dice.items()}["mean"] == 2
