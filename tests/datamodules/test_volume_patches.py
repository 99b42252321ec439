"""3D patches: cut, turned, changed, and drawn so that they show foreground."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform, map_coordinates

from datamodules import Augmentation
from datamodules.cache.foreground import PLACES, class_places, class_slices
from datamodules.loading.augmentation import augmented_volume_patch, sample_generator
from datamodules.loading.patches import (
    begin_around,
    cut_at,
    empty_pair,
    patch_begin,
)
from datamodules.loading.samplers import TrainingSampler, forced
from datamodules.loading.turned_volume import turned_patch
from datamodules.loading.turning import turn_and_scale
from tests.datamodules.test_base import digest, ready

STRONG = Augmentation(flip=0.5, rotation=30, tilt=20, scale=0.3, gamma=0.5, noise=0.2)
SETTINGS = {"spatial_dims": 3, "patch_size": (16, 12, 6), "crop": "random", "foreground": 1 / 3}
SETTINGS |= {"samples_per_case": 3}


def volume(*shape: int, channels: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 4, shape).astype(np.uint8)
    classes[0, 0, 0] = 255
    return rng.normal(size=(channels, *shape)).astype(np.float16), classes


@pytest.mark.parametrize("begin", [(2, 0, 5), (-3, 4, -1), (0, 0, 0)])
def test_cut_by_hand(begin: tuple[int, int, int]) -> None:
    pixels, classes = volume(12, 13, 14)
    image, label = cut_at(pixels, classes, begin, empty_pair(2, (9, 8, 9)))
    assert (image.dtype, image.shape) == (torch.float32, (2, 9, 8, 9))
    for x, y, z in np.ndindex(9, 8, 9):
        where = (begin[0] + x, begin[1] + y, begin[2] + z)
        inside = all(0 <= w < n for w, n in zip(where, classes.shape, strict=True))
        assert label[x, y, z] == (classes[where] if inside else 255)
        assert image[0, x, y, z] == (float(pixels[0][where]) if inside else 0)


def test_begin_around_a_voxel() -> None:
    assert [begin_around(20, 8, v) for v in (0, 3, 4, 5, 10, 16, 19)] == [0, 0, 0, 1, 6, 12, 12]
    assert begin_around(5, 8, 3) == patch_begin(5, 8, 0.3) == -1
    for voxel in range(20):
        begin = begin_around(20, 7, voxel)
        assert begin <= voxel < begin + 7


@pytest.mark.parametrize("begin", [(2, 3, 1), (-2, 5, -1)])
def test_no_turn_is_the_plain_patch(begin: tuple[int, int, int]) -> None:
    pixels, classes = volume(15, 16, 7)
    size = (10, 9, 8)
    plain = cut_at(pixels, classes, begin, empty_pair(2, size))
    turned = turned_patch(pixels, classes, begin, np.eye(3), empty_pair(2, size))
    torch.testing.assert_close(turned[0], plain[0], atol=2e-4, rtol=0)
    assert torch.equal(turned[1], plain[1])


@pytest.mark.parametrize("tilts", [(0.0, 0.0), (0.3, -0.2)], ids=["turned", "tilted"])
@pytest.mark.parametrize(("begin", "channels"), [((2, 3, 1), 3), ((-5, 20, 30), 1)])
def test_a_turn_is_linear_interpolation(tilts, begin: tuple[int, int, int], channels: int) -> None:
    """scipy finds the same, for a patch of several pieces that reaches out of the volume."""
    pixels, classes = volume(40, 48, 60, channels=channels)
    size = (33, 34, 66)
    pull = turn_and_scale((1, 1.2, 2.5), turn=0.4, tilts=tilts, factor=1.17)
    pull[:, 1] *= -1
    image, label = turned_patch(pixels, classes, begin, pull, empty_pair(channels, size))
    places = np.indices(size).reshape(3, -1) - (np.array(size)[:, None] - 1) / 2
    points = pull @ places + np.array(begin)[:, None] + (np.array(size)[:, None] - 1) / 2
    for found, source in zip(image, pixels, strict=True):
        wanted = map_coordinates(
            source.astype(np.float64), points, order=1, mode="grid-constant", cval=0
        )
        np.testing.assert_allclose(found.numpy().ravel(), wanted, atol=2e-4)
    wanted = map_coordinates(classes, points, order=0, mode="grid-constant", cval=255)
    assert (label.numpy().ravel() != wanted).mean() < 1e-3  # ties of nearest neighbours
    assert (label == 255).any()
    assert (label != 255).any()


@pytest.mark.parametrize("tilted", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_any_size_any_place_any_voxel(dtype: type, tilted: bool) -> None:
    """Axes of one voxel, patches larger than the volume or beside it, voxels longer than wide."""
    rng = np.random.default_rng(2)
    for _ in range(40):
        shape, size = (tuple(rng.integers(1, 24, 3).tolist()) for _ in range(2))
        channels, begin = int(rng.integers(1, 5)), rng.integers(-9, 18, 3)
        pixels = rng.normal(size=(channels, *shape)).astype(dtype)
        classes = rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), shape)
        tilts = tuple(rng.uniform(-1, 1, 2)) if tilted else (0.0, 0.0)
        factor, spacing = 2 ** rng.uniform(-1, 1), 10 ** rng.uniform(-0.5, 1, 3)
        pull = turn_and_scale(spacing, turn=rng.uniform(-3, 3), tilts=tilts, factor=factor)
        pull[:, rng.random(3) < 0.5] *= -1
        out = empty_pair(channels, size)
        out[0].fill_(math.nan)
        image, label = turned_patch(pixels, classes, begin.tolist(), pull, out)
        middle = (np.array(size) - 1) / 2
        options: dict = {"offset": begin + middle - pull @ middle, "output_shape": size}
        options["mode"] = "grid-constant"
        for found, source in zip(image, pixels, strict=True):
            wanted = affine_transform(source.astype(np.float64), pull, order=1, **options)
            np.testing.assert_allclose(found.numpy(), wanted, atol=1e-4)
        wanted = affine_transform(classes, pull, order=0, cval=255, **options)
        places = np.tensordot(pull, np.indices(size), 1) + options["offset"][:, None, None, None]
        tie = (np.abs(places % 1 - 0.5) < 1e-4).any(0)
        assert (label.numpy() == wanted)[~tie].all()


@pytest.mark.parametrize(("axis", "tilts"), [(0, (math.pi / 2, 0)), (1, (0, math.pi / 2))])
def test_a_quarter_tilt(axis: int, tilts: tuple[float, float]) -> None:
    pixels, classes = volume(8, 8, 8)
    pull = turn_and_scale((1, 1, 1), turn=0, tilts=tilts, factor=1)
    image, label = turned_patch(pixels, classes, (0, 0, 0), pull, empty_pair(2, (8, 8, 8)))
    plane = [(1, 2), (2, 0)][axis]
    np.testing.assert_array_equal(label.numpy(), np.rot90(classes, axes=plane))
    np.testing.assert_allclose(
        image[0].numpy(), np.rot90(pixels[0].astype(np.float32), axes=plane), atol=1e-3
    )


def test_a_tilt_keeps_lengths_in_mm() -> None:
    """A quarter tilt brings what is 10 mm away along z to 10 mm along y, four voxels of 2.5 mm."""
    pull = turn_and_scale((1, 2.5, 10), turn=0, tilts=(math.pi / 2, 0), factor=1)
    np.testing.assert_allclose(np.abs(pull @ [0, 4, 0]), [0, 0, 1], atol=1e-9)


def patch(settings: Augmentation, index: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    pixels, classes = volume(14, 16, 10)
    pixels[:, :4] = 0
    return augmented_volume_patch(
        pixels,
        classes,
        (2, 3, 1),
        spacing=(1.0, 1.0, 2.0),
        settings=settings,
        generator=sample_generator(0, 0, index),
        out=empty_pair(2, (8, 8, 8)),
    )


def test_changes_repeat_and_differ_between_samples() -> None:
    assert torch.equal(patch(STRONG, 1)[0], patch(STRONG, 1)[0])
    assert not torch.equal(patch(STRONG, 1)[0], patch(STRONG, 2)[0])
    assert torch.isfinite(patch(STRONG)[0]).all()


def test_intensity_changes_leave_zero_and_labels_alone() -> None:
    plain, label = patch(Augmentation())
    changed, same = patch(Augmentation(gamma=0.5, noise=0.2))
    assert torch.equal(label, same)
    assert (changed[plain == 0] == 0).all()
    assert (changed[plain != 0] != plain[plain != 0]).float().mean() > 0.99


def test_flips_mirror_image_and_label_together() -> None:
    plain, label = patch(Augmentation())
    image, mirrored = patch(Augmentation(flip=1.0))
    assert torch.equal(image, plain.flip((1, 2, 3)))
    assert torch.equal(mirrored, label.flip((0, 1, 2)))


def test_probability_is_the_share_of_changed_samples() -> None:
    plain, _ = patch(Augmentation())
    rare = Augmentation(noise=0.5, probability=0.25)
    changed = sum(not torch.equal(patch(rare, index)[0], plain) for index in range(200))
    assert 30 <= changed <= 70
    assert Augmentation(noise=0.5, probability=0).is_off


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
    plain = [bool((dataset[(0, i, False)]["label"] % 255 > 0).any()) for i in range(len(dataset))]
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
    """Pages of the file that no patch touches may be spoilt without a sample changing."""
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
