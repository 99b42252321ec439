"""The datasets with any number of test cases, and a tiny fake ACDC download."""

from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from datamodules import ACDCDataModule, BraTSDataModule, FLAREDataModule
from datamodules.case import Case
from tests import tiny
from tests.datamodules.conftest import write_patient
from tests.grouped import nested


class _Few:
    def __init__(self, *args: Any, test_cases: int = 3, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.test_cases = test_cases

    @cached_property
    def parts(self) -> dict[str, list[Case]]:
        found = super().parts  # type: ignore[misc]
        return found | {"test": found["test"][: self.test_cases]}


class FewACDC(_Few, ACDCDataModule):
    """ACDC: a patient has two cases."""


class FewBraTS(_Few, BraTSDataModule):
    """BraTS."""


class FewFLARE(_Few, FLAREDataModule):
    """FLARE."""


def acdc_args(folder: Path, **settings: Any) -> list[str]:
    """Return arguments of ``mbls train`` on a download written to ``folder``.

    ``settings`` are the datamodule's, by the names of :func:`tests.grouped.nested`.
    """
    root = folder / "ACDC" / "database"
    for number in range(1, 9):
        write_patient(root / "training" / f"patient{number:03d}", shape=(18 + number, 24, 4))
    for number in (101, 102):
        write_patient(root / "testing" / f"patient{number}", shape=(20 + number % 2, 24, 4))
    args = tiny.train_args(folder, epochs=1)
    fixed = {
        "root": str(root), "cache_dir": str(folder / "cache"), "patch_size": [16, 16],
        "val_fraction": 0.3, "batch_size": 8,
    }  # fmt: skip
    data = {"class_path": "tests.few.FewACDC", "init_args": nested(**fixed | settings)}
    (folder / "data" / "blobs.yaml").write_text(yaml.safe_dump({"data": data}))
    return args
