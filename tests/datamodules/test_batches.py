"""Batches are written in place: the same as their samples stacked, in and out of workers."""

import os

import numpy as np
import pytest
import torch

from datamodules import Augmentation, DataError
from datamodules.loading.datasets import IGNORE_INDEX, collate, write_targets
from datamodules.memory import Reused
from datamodules.reading.checks import IGNORED, OUTSIDE
from tests.datamodules.test_base import ready

STRONG = Augmentation(flip=0.5, rotation=30, tilt=20, scale=0.3, gamma=0.5, noise=0.2)
DEEP = {"spatial_dims": 3, "patch_size": (16, 12, 6), "crop": "random"}


@pytest.mark.parametrize("settings", [{}, {"crop": "random"}, DEEP], ids=["2d", "random", "3d"])
@pytest.mark.parametrize("augmentation", [Augmentation(), STRONG], ids=["plain", "changed"])
def test_a_batch_is_its_samples(module, settings: dict, augmentation: Augmentation) -> None:
    dataset = ready(module(**settings, augmentation=augmentation)).train_dataset()
    keys = [(1, index, index % 2 == 0) for index in range(len(dataset))]
    batch = dataset.__getitems__(keys)
    stacked = collate([dataset[key] for key in keys])
    assert batch.keys() == stacked.keys()
    for name, value in batch.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == stacked[name].dtype
            assert torch.equal(value, stacked[name]), name
        else:
            assert value == stacked[name]


@pytest.mark.parametrize("count", [1, 60_000])
def test_marks_of_labels(count: int) -> None:
    marked = torch.tensor([0, 1, OUTSIDE, 3, IGNORED, 2], dtype=torch.uint8).repeat(count)
    plain = torch.tensor([0, 1, 3, 2], dtype=torch.uint8).repeat(count)
    outside = torch.tensor([OUTSIDE, 1], dtype=torch.uint8).repeat(count)
    for labels, expected in (
        (marked, [0, 1, 0, 3, IGNORE_INDEX, 2]),
        (plain, [0, 1, 3, 2]),
        (outside, [0, 1]),
    ):
        targets = write_targets(labels, torch.empty(labels.shape, dtype=torch.int64))
        assert torch.equal(targets, torch.tensor(expected).repeat(count))


@pytest.mark.parametrize("settings", [{}, DEEP], ids=["2d", "3d"])
def test_batches_that_are_kept_are_not_overwritten(module, settings: dict) -> None:
    """Memory is used again, but never while a batch, or a view of it, is in use."""
    dataset = ready(module(**settings)).train_dataset()
    keys = [[(0, index, False)] for index in range(len(dataset))]
    kept = [dataset.__getitems__(each) for each in keys]
    for each, batch in zip(keys, kept, strict=True):
        alone = dataset[each[0]]
        assert torch.equal(batch["image"][0], alone["image"])
        assert torch.equal(batch["label"], collate([alone])["label"])


def test_memory_is_used_again_once_it_is_free() -> None:
    memory = Reused(most=2)
    first = memory.empty((3, 4), torch.float32)
    view, place = first[1], first.data_ptr()
    del first
    second = memory.empty((3, 4), torch.float32)
    assert second.data_ptr() != place  # a view still holds it
    del view
    assert memory.empty((3, 4), torch.float32).data_ptr() == place
    assert memory.empty((4, 3), torch.float32).data_ptr() != place
    several = [memory.empty((3, 4), torch.int64) for _ in range(5)]
    assert len({tensor.data_ptr() for tensor in several}) == 5


def test_what_a_sample_writes_never_reaches_the_cache(module) -> None:
    case = ready(module()).train_dataset().cases[0]
    before = case.volume("image").copy()
    case.plane("image", 1)[:] = 7
    np.testing.assert_array_equal(case.volume("image"), before)


def test_a_worker_sends_batches_it_need_not_copy(module) -> None:
    batch = next(iter(ready(module(num_workers=1)).train_dataloader()))
    assert batch["image"].is_shared()
    assert batch["label"].is_shared()


def test_a_slice_of_a_file_cut_short(module) -> None:
    """What shortens a file while training runs is an error that names it, not made-up pixels."""
    dataset = ready(module()).train_dataset()
    stored = dataset.cases[0].arrays["image"]
    os.truncate(stored.path, stored.offset + 10)
    case = dataset.cases[0].id
    with pytest.raises(
        DataError, match=rf"{case}: .*an end within its array .*image\.npy.*RESUME=1"
    ):
        dataset[(0, 0, False)]
