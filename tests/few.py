"""The datasets with any number of test cases."""

from functools import cached_property
from typing import Any

from datamodules import ACDCDataModule, BraTSDataModule, FLAREDataModule
from datamodules.case import Case


class _Few:
    def __init__(self, *args: Any, test_cases: int = 3, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.test_cases = test_cases

    @cached_property
    def parts(self) -> dict[str, list[Case]]:
        found = super().parts  # type: ignore[misc]
        assert len(found["test"]) >= self.test_cases
        return found | {"test": found["test"][: self.test_cases]}


class FewACDC(_Few, ACDCDataModule):
    """ACDC: a patient has two cases."""


class FewBraTS(_Few, BraTSDataModule):
    """BraTS."""


class FewFLARE(_Few, FLAREDataModule):
    """FLARE."""
