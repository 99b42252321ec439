"""The contract between data and the rest."""

import warnings
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

import datamodules
from mbls.data import CONTRACT, cases_of, datamodule_of, is_datamodule, missing_from
from tests import tiny
from tests.blobs import BlobDataModule
from tests.test_module import module


class Plain(LightningDataModule):
    """Loaders and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.blobs = BlobDataModule(size=16, train=4)

    def train_dataloader(self) -> DataLoader:
        return self.blobs.train_dataloader()

    def val_dataloader(self) -> Any:
        return self.blobs.val_dataloader()


@pytest.mark.parametrize("name", ["ACDCDataModule", "BraTSDataModule", "FLAREDataModule"])
def test_datasets_keep_the_contract(name: str) -> None:
    assert missing_from(getattr(datamodules, name)(None)) == []


def test_contract_names_missing_attributes_and_evaluates_none() -> None:
    class Partial(Plain):
        origin = property(lambda self: pytest.fail("evaluated"))

    missing = missing_from(Partial())
    assert {"origin", "train_dataloader"}.isdisjoint(missing)
    assert {"cases", "restore", "fingerprint", "start"} <= set(missing) < set(CONTRACT)
    assert not is_datamodule(Partial())
    assert not is_datamodule(None)


def test_plain_datamodule_is_evaluated_by_its_loaders_with_a_warning() -> None:
    fitted = tiny.trainer()
    with pytest.warns(UserWarning, match="Plain lacks .*fingerprint"):
        fitted.fit(module(), datamodule=Plain())
    assert datamodule_of(fitted) is None
    assert torch.isfinite(fitted.callback_metrics["val/dice"])


def test_datamodule_that_keeps_the_contract_brings_no_warning() -> None:
    fitted = tiny.trainer()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*lacks.*")
        fitted.fit(module(), datamodule=BlobDataModule(size=16, train=4))
    assert isinstance(datamodule_of(fitted), BlobDataModule)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x, x], lambda x: {"a": x}])
def test_cases_of_the_first_loader(wrap: Any) -> None:
    assert cases_of(wrap(DataLoader(list(range(5))))) == 5
