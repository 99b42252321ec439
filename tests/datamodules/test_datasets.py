"""Slices and patches to train on: drawn so that they show foreground, and written into batches."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import Augmentation, DataError
from datamodules.cache.foreground import PLACES, class_places, class_slices
from datamodules.loading.datasets import IGNORE_INDEX, write_targets
from datamodules.loading.samplers import TrainingSampler, forced
from datamodules.reading.checks import IGNORED, OUTSIDE
from tests.datamodules.test_base import digest, ready

STRONG = Augmentation(flip=0.5, rotation=30, tilt=20, scale=0.3, gamma=0.5, noise=0.2)
SETTINGS = {"spatial_dims": 3, "patch_size": (16, 12, 6), "crop": "random", "foreground": 1 / 3}
SETTINGS |= {"samples_per_case": 3}


@pytest.mark.parametrize("settings", [{}, {"crop": "random"}, SETTINGS], ids=["2d", "random", "3d"])
@pytest.mark.parametrize("augmentation", [Augmentation(), STRONG], ids=["plain", "changed"])
def test_a_sample_does_not_depend_on_the_others_of_its_batch(
    module, settings: dict, augmentation: Augmentation
) -> None:
    dataset = ready(module(**settings, augmentation=augmentation)).train_dataset()
    keys = [(1, index, index % 2 == 0) for index in range(len(dataset))]
    batch = dataset.__getitems__(keys)
    for place, key in enumerate(keys):
        for name, value in dataset[key].items():
            assert (
                torch.equal(torch.as_tensor(batch[name][place]), torch.as_tensor(value))
                if (name != "case")
                else batch[name][place] == value
            )


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


def test_writing_to_a_sample_never_changes_the_cache(module) -> None:
    case = ready(module()).train_dataset().cases[0]
    before = case.volume("image").copy()
    case.plane("image", 1)[:] = 7
    np.testing.assert_array_equal(case.volume("image"), before)


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


def test_places_and_slices_of_classes() -> None:
    label = np.zeros((40, 30, 6), np.uint8)
    label[5:35, 5:25, 1:5] = 1  # 2400 voxels
    label[8, 9, 2:4] = 3
    label[0] = 255
    label[1] = 254
    slices = class_slices(label, 4)
    assert slices[1].tolist() == [False, True, True, True, True, False]
    assert slices[3].tolist() == [False, False, True, True, False, False]
    assert not slices[2].any()
    rows, counts = class_places(label, 4)
    assert counts == [0, PLACES, 0, 2]
    assert rows.dtype == np.uint16
    assert len(np.unique(rows, axis=0)) == PLACES + 2
    assert (label[tuple(rows[:PLACES].T)] == 1).all()
    assert rows[PLACES:].tolist() == [[8, 9, 2], [8, 9, 3]]
    again, _ = class_places(np.asfortranarray(label), 4)
    np.testing.assert_array_equal(rows, again)


@pytest.mark.parametrize("share", [0.0, 0.1, 1 / 3, 0.5, 1.0])
def test_every_batch_has_its_share_spread_over_ranks(share: float) -> None:
    for size in (1, 2, 4, 6, 9):
        assert sum(forced(p, share) for p in range(size)) == math.ceil(round(share * size, 9))
    ranks = [
        list(TrainingSampler(24, batch_size=12, seed=0, rank=r, world=2, foreground=share))
        for r in range(2)
    ]
    for shares in zip(*ranks, strict=True):
        counts = [sum(must for *_, must in batch) for batch in shares]
        assert abs(counts[0] - counts[1]) <= 1


def test_training_batch_of_patches(module) -> None:
    built = ready(module(**SETTINGS, batch_size=6))
    batches = list(built.train_dataloader())
    assert len(batches) == 3 * len(built.cases("train")) // 6
    batch = batches[0]
    assert batch["image"].shape == (6, 1, 16, 12, 6)
    assert batch["image"].dtype == torch.float32
    assert batch["label"].shape == (6, 16, 12, 6)
    assert batch["spacing"].tolist() == [[1.5, 1.5, 10.0]] * 6
    padded = batch["label"] == -100
    assert padded[..., [0, 5]].all()  # four slices in the middle of six
    assert not padded[..., 1:5].any()
    assert (batch["image"][:, 0][padded] == 0).all()
    for shown in batches:
        middle = shown["label"][:, 8, 6, 1:5]  # a voxel in x and y, as far as the border allows
        assert (shown["label"] > 0).flatten(1).any(1).sum() >= 2
        assert middle.shape == (6, 4)


def test_forced_patches_have_foreground_in_the_middle(module) -> None:
    built = ready(module(**SETTINGS | {"patch_size": (5, 5, 1)}))
    dataset = built.train_dataset()
    labels = [dataset[(0, i, True)]["label"] for i in range(len(dataset))]
    middles = [int(label[2, 2, 0]) for label in labels]
    assert set(middles) == {1, 2, 3}
    free = [dataset[(0, i, False)]["label"] for i in range(len(dataset))]
    assert {int(label[2, 2, 0]) for label in free} > {0}


def test_forced_slices_have_foreground(module, acdc: Path) -> None:
    import nibabel as nib

    for path in acdc.glob("*/*/*_gt.nii.gz"):  # the last slices lose all classes
        image = nib.load(path)
        data = np.asarray(image.dataobj).copy()
        data[..., 1:] = 0
        nib.save(nib.Nifti1Image(data, image.affine), path)
    built = ready(module(foreground=0.5))
    dataset = built.train_dataset()
    assert all((dataset[(0, i, True)]["label"] > 0).any() for i in range(len(dataset)))
    shown = [(batch["label"] > 0).flatten(1).any(1).sum() for batch in built.train_dataloader()]
    assert min(shown) >= 2
    plain = [bool((dataset[(0, i, False)]["label"] > 0).any()) for i in range(len(dataset))]
    assert sum(plain) == len(built.cases("train"))


def test_patches_repeat_for_any_number_of_workers(module) -> None:
    settings = SETTINGS | {"augmentation": STRONG}
    first = digest(ready(module(**settings)).train_dataloader())
    assert len(set(first)) == len(first)
    workers = ready(module(**settings, num_workers=2)).train_dataloader()
    assert digest(workers) == first
    workers.batch_sampler.set_epoch(1)
    assert digest(workers) != first


def test_volumes_are_the_same_in_2d_and_3d(module) -> None:
    flat, deep = ready(module()), ready(module(**SETTINGS))
    for a, b in zip(flat.test_dataloader(), deep.test_dataloader(), strict=True):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["label"], b["label"])


def test_a_patch_reads_only_its_bytes(module) -> None:
    """Pages of the file that no patch reads may be damaged without a change of a sample."""
    built = ready(module(**SETTINGS | {"patch_size": (4, 24, 4), "crop": "center"}))
    dataset = built.train_dataset()
    case = dataset.cases[0]
    before = dataset[(0, 0, False)]["image"]
    stored = case.arrays["image"]
    assert stored.shape == (1, 20, 24, 4)
    writable = np.memmap(stored.path, stored.dtype, "r+", stored.offset, stored.shape)
    writable[:, :8] = writable[:, 12:] = np.nan
    writable.flush()
    assert torch.equal(dataset[(0, 0, False)]["image"], before)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"spatial_dims": 4}, "spatial_dims must be 2 or 3, got 4"),
        ({"spatial_dims": 3}, "patch_size must have 3 values for spatial_dims 3"),
        ({"spatial_dims": 3, "patch_size": (8, 8, 8), "spacing": (1.0, 1.0)}, "spacing must have"),
        ({"foreground": 1.5}, "foreground is a share"),
        ({"samples_per_case": 0}, "samples_per_case must be >= 1, got 0"),
        ({"mask_background": True}, "mask_background must be false for acdc"),
    ],
)
def test_bad_settings(module, settings: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        module(**settings)
