"""Labels that are drawn again from a phantom on disk."""

import json
from dataclasses import replace
from functools import cache

import pytest
import torch

from datamodules import ACDCDataModule, BraTSDataModule, FLAREDataModule, SegmentationDataModule
from datamodules.case import DataError
from datamodules.phantom.redraw import redraw_labels

ONE = {"train": 1, "val": 1, "test": 1}
DATASETS = {"acdc": ACDCDataModule, "brats": BraTSDataModule, "flare": FLAREDataModule}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory):
    """Return a function that writes the phantom of a dataset once, and opens it."""
    folder = tmp_path_factory.mktemp("redraw")

    @cache
    def opened(name: str) -> SegmentationDataModule:
        data = DATASETS[name](
            None, phantom_root=folder / name, cache_dir=folder / "cache", phantom_patients=ONE
        )
        data.prepare(progress=False)
        data.setup("test")
        return data

    return opened


@pytest.mark.parametrize("name", DATASETS)
def test_labels_follow_the_posterior_of_the_batch(name: str, phantom) -> None:
    data = phantom(name)
    batch = next(iter(data.test_dataloader()))
    number = 40
    labels = data.draw_labels(batch["case"][0], number)
    posterior = batch["posterior"][0]
    assert labels.dtype == torch.uint8
    assert labels.shape[1:] == posterior.shape[1:]  # the grid of the cache, also after a turn
    shares = torch.stack([(labels == k).float().mean(0) for k in range(len(posterior))])
    possible = (posterior > 0.02) & (posterior < 0.98)
    error = (shares - posterior)[possible]
    spread = (posterior * (1 - posterior) / number).sqrt()[possible]
    # 1 on average; voxels agree, so it varies. On a turned grid it is 12.
    assert 0.4 < (error / spread).square().mean().sqrt().item() < 2
    assert shares[posterior == 0].mean() < 1e-5  # half a step of the 16 bits of the file


def test_labels_are_the_same_wherever_they_are_drawn(phantom) -> None:
    data = phantom("acdc")
    first, second = data.cases("test")
    ten = data.draw_labels(first, 10)
    assert torch.equal(ten[:4], data.draw_labels(first, 4))
    assert not torch.equal(ten, data.draw_labels(first, 10, seed=1))
    assert not torch.equal(ten[0], ten[1])
    volumes = [(data.draw_labels(case, 1) > 0).sum().item() for case in (first, second)]
    assert volumes[0] != volumes[1]  # the two frames of a heart
    label = next(iter(data.test_dataloader()))["label"][0]
    assert not any(torch.equal(each, label) for each in ten)


def test_boundaries_move_as_a_whole(phantom) -> None:
    """The labels of neighbors agree: volumes vary far more than those of independent voxels."""
    data = phantom("acdc")
    batch = next(iter(data.test_dataloader()))
    labels = data.draw_labels(batch["case"][0], 40)
    posterior = batch["posterior"][0, 3]
    independent = (posterior * (1 - posterior)).sum().sqrt().item()
    assert (labels == 3).flatten(1).sum(1).float().std().item() > 3 * independent


def test_other_data_have_no_distribution(phantom) -> None:
    data = phantom("acdc")
    card = data.phantom_root / "phantom.json"
    kept = card.read_text()
    for change, message in (
        ({"version": 0}, "is of version 0, and can be drawn again only by that version"),
        ({"seed": "none"}, "as it was written by this version"),
        ({"patients": {"train": 1, "val": 1, "test": 0}}, "has no patient patient003"),
    ):
        card.write_text(json.dumps(json.loads(kept) | change))
        with pytest.raises(DataError, match=message):
            data.draw_labels(data.cases("test")[0], 1)
    card.write_text(kept)
    data.draw_labels(data.cases("test")[0], 1)


def test_a_case_without_posterior_is_refused(phantom) -> None:
    case = phantom("acdc").parts["test"][0]
    with pytest.raises(DataError, match="drawn from a known distribution, found a case without"):
        redraw_labels(replace(case, posterior=None), 1)
