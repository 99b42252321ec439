"""Batches are written in place: the same as their samples stacked, in and out of workers."""

import numpy as np
import pytest
import torch

from datamodules import Augmentation
from datamodules.checks import IGNORED, OUTSIDE
from datamodules.datasets import IGNORE_INDEX, _targets, collate
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


def test_marks_of_labels() -> None:
    labels = np.array([[0, 1, OUTSIDE], [3, IGNORED, 2]], np.uint8)
    targets = _targets(torch.from_numpy(labels))
    assert targets.tolist() == [[0, 1, 0], [3, IGNORE_INDEX, 2]]
    plain = _targets(torch.tensor([[0, 1], [3, 2]], dtype=torch.uint8))
    assert plain.tolist() == [[0, 1], [3, 2]]
    assert plain.dtype == targets.dtype == torch.int64


def test_what_a_sample_writes_never_reaches_the_cache(module) -> None:
    case = ready(module()).train_dataset().cases[0]
    before = case.volume("image").copy()
    case.plane("image", 1)[:] = 7
    np.testing.assert_array_equal(case.volume("image"), before)


def test_a_worker_sends_batches_it_need_not_copy(module) -> None:
    batch = next(iter(ready(module(num_workers=1)).train_dataloader()))
    assert batch["image"].is_shared()
    assert batch["label"].is_shared()
