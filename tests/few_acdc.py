"""A tiny fake ACDC download whose test set has any number of cases."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from datamodules import ACDCDataModule
from datamodules.case import Survey
from tests import tiny
from tests.datamodules.conftest import write_patient


class FewACDC(ACDCDataModule):
    """ACDC with the first ``test_cases`` cases of its test set: a patient has two."""

    def __init__(self, root: Path | None = None, *, test_cases: int = 3, **settings: Any) -> None:
        super().__init__(root, **settings)
        self.test_cases = test_cases

    def discover(self, root: Path) -> Survey:
        survey = super().discover(root)
        test = [case for case in survey.cases if case.patient in survey.official_test]
        kept = test[: self.test_cases]
        patients = {case.patient for case in kept}
        cases = tuple(case for case in survey.cases if case not in test or case in kept)
        return replace(
            survey,
            cases=cases,
            patients=frozenset(case.patient for case in cases),
            official_test=survey.official_test & patients,
        )


def words(folder: Path, **settings: Any) -> list[str]:
    """Words of a run on a download written to ``folder``; ``settings`` are those of the data."""
    root = folder / "ACDC" / "database"
    for number in range(1, 9):
        write_patient(root / "training" / f"patient{number:03d}", shape=(18 + number, 24, 4))
    for number in (101, 102):
        write_patient(root / "testing" / f"patient{number}", shape=(20 + number % 2, 24, 4))
    given = tiny.words(folder, epochs=1)
    fixed = {
        "root": str(root),
        "cache_dir": str(folder / "cache"),
        "patch_size": [16, 16],
        "val_fraction": 0.3,
        "batch_size": 8,
    }
    data = {"class_path": "tests.few_acdc.FewACDC", "init_args": fixed | settings}
    (folder / "data" / "blobs.yaml").write_text(yaml.safe_dump({"data": data}))
    return given
