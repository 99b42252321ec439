"""Patches, and the random changes to them."""

import itertools
import math

import numpy as np
import pytest
import torch

from datamodules.loading.augmentation import (
    Augmentation,
    augmented_patches,
    change_intensities,
    gaussian,
    sample_generator,
    turned_margin,
)
from datamodules.loading.patches import (
    cut_patch,
    empty_pair,
    patch_begin,
)
from datamodules.loading.turned_volume import turned_patch
from datamodules.loading.turning import turn_and_scale, turn_in_plane

STRONG = Augmentation(flip=0.5, rotation=30, scale=0.3, gamma=0.5, noise=0.2)


def augmented(pixels, classes, size, generator, **settings):
    image, label = empty_pair(len(pixels), size)
    augmented_patches([(pixels, classes)], [generator], **settings, out=(image[None], label[None]))
    return image, label


def turned(pixels, classes, size, where=(0.5, 0.5), *, angle: float, factor: float):
    pull = turn_and_scale((1, 1, 1), turn=angle, tilts=(0, 0), factor=factor)
    sizes = zip(classes.shape, size, where, strict=True)
    begin = [patch_begin(n, m, share) for n, m, share in sizes]
    return turned_slice(pixels, classes, begin, pull, size)


def turned_slice(pixels, classes, begin, pull, size):
    """A slice as a volume of one."""
    pull[2, 2] = 1
    out = empty_pair(len(pixels), (*size, 1))
    image, label = turned_patch(pixels[..., None], classes[..., None], (*begin, 0), pull, out)
    return image[..., 0], label[..., 0]


def slice_of(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 4, (height, width)).astype(np.uint8)
    classes[0, 0] = 255
    return rng.normal(size=(1, height, width)).astype(np.float32), classes


@pytest.mark.parametrize(
    ("length", "wanted", "share", "begin"),
    [
        (10, 4, 0.5, 3),
        (11, 4, 0.5, 3),
        (10, 4, 0.0, 0),
        (10, 4, 0.999999, 6),
        (10, 4, 1.0, 6),
        (4, 10, 0.5, -3),
        (4, 11, 0.9, -3),
        (5, 5, 0.3, 0),
    ],
)
def test_begin(length: int, wanted: int, share: float, begin: int) -> None:
    assert patch_begin(length, wanted, share) == begin


def test_cut_by_hand() -> None:
    """3 x 5 to 5 x 3: one row of padding on each side, one column cut on each side."""
    pixels = np.arange(1, 16, dtype=np.float16).reshape(1, 3, 5)
    classes = np.arange(15, dtype=np.uint8).reshape(3, 5) % 4
    image, label = cut_patch(pixels, classes, (5, 3))
    assert image[0].tolist() == [[0, 0, 0], [2, 3, 4], [7, 8, 9], [12, 13, 14], [0, 0, 0]]
    assert label.tolist() == [[255] * 3, [1, 2, 3], [2, 3, 0], [3, 0, 1], [255] * 3]
    assert (image.dtype, label.dtype) == (torch.float32, torch.uint8)


@pytest.mark.parametrize("size", [(16, 16), (15, 20), (40, 16), (40, 41), (7, 8)])
@pytest.mark.parametrize("where", [(0.5, 0.5), (0.0, 0.9)])
def test_no_turn_is_the_plain_patch(size: tuple[int, int], where: tuple[float, float]) -> None:
    pixels, classes = slice_of(21, 26)
    plain = cut_patch(pixels, classes, size, where)
    same = turned(pixels, classes, size, where, angle=0, factor=1)
    torch.testing.assert_close(same[0], plain[0], atol=1e-4, rtol=0)
    assert torch.equal(same[1], plain[1])


def test_quarter_turn() -> None:
    pixels, classes = slice_of(12, 12)
    image, label = turned(pixels, classes, (12, 12), angle=math.pi / 2, factor=1)
    np.testing.assert_allclose(image.numpy(), np.rot90(pixels, axes=(1, 2)), atol=1e-4)
    np.testing.assert_array_equal(label.numpy(), np.rot90(classes))


def test_enlargement() -> None:
    """Twice as large: the middle half fills the patch, and half as large leaves a border."""
    pixels, classes = slice_of(8, 8)
    _, label = turned(pixels, classes, (8, 8), angle=0, factor=2)
    np.testing.assert_array_equal(label.numpy(), np.kron(classes[2:6, 2:6], np.ones((2, 2))))
    image, label = turned(pixels, classes, (8, 8), angle=0, factor=0.5)
    assert (label[:2] == 255).all()
    assert (image[:, :2] == 0).all()
    assert (label[2:6, 2:6] != 255).any()


def patch(settings: Augmentation, epoch: int = 0, index: int = 0, crop: str = "random"):
    generator = sample_generator(5, epoch, index)
    return augmented(*slice_of(30, 26), (16, 40), generator, crop=crop, settings=settings)


def test_draws_are_of_seed_epoch_index() -> None:
    first = patch(STRONG, 1, 2)
    again = patch(STRONG, 1, 2)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    for other in (patch(STRONG, 2, 1), patch(STRONG, 1, 3)):
        assert not torch.equal(first[0], other[0])


def test_image_and_label_move_together() -> None:
    """An image that is its label: only within two pixels of an edge may the two disagree."""
    y, x = np.mgrid[:61, :47]
    heart, other = np.hypot(y - 25, x - 20), np.hypot(y - 40, x - 32)
    classes = np.select([heart < 6, heart < 11, other < 8], [3, 2, 1], 0).astype(np.uint8)
    moving = Augmentation(flip=0.5, rotation=30, scale=0.3)
    for index in range(40):
        generator = sample_generator(1, 0, index)
        pixels = classes[None].astype(np.float32)
        image, label = augmented(
            pixels, classes, (50, 64), generator, crop="random", settings=moving
        )
        around = label.unfold(0, 5, 1).unfold(1, 5, 1).flatten(2)  # 5 x 5 about a pixel
        flat = (around == around[..., :1]).all(-1)
        image, label = image[:, 2:-2, 2:-2], label[2:-2, 2:-2]
        assert (label[flat] != 255).sum() > 100
        known = flat & (label != 255)
        torch.testing.assert_close(image[0][known], label[known].float(), atol=1e-5, rtol=0)
        assert (image[0][flat & (label == 255)] == 0).all()


def test_no_draws_are_repeated() -> None:
    """No two samples of 30 epochs and two seeds have the same draws."""
    draws = [
        tuple(sample_generator(seed, epoch, index).random(2).tolist())
        for seed in (0, 1)
        for epoch in range(30)
        for index in range(20)
    ]
    assert len(set(draws)) == 2 * 30 * 20


@pytest.mark.parametrize("size", [(16, 16), (15, 40), (40, 33)])
def test_slices_turn_as_volumes_do(size: tuple[int, int]) -> None:
    """Turned together within a margin, or alone out of the box they reach into: the same."""
    pixels, classes = slice_of(30, 26)
    turning = Augmentation(flip=0.5, rotation=40, scale=0.3)
    for index in range(10):
        image, label = augmented(
            pixels, classes, size, sample_generator(3, 0, index), crop="random", settings=turning
        )
        row, column, *flips, angle, zoom, _, _ = sample_generator(3, 0, index).random(8).tolist()
        turn = math.radians(40) * (2 * angle - 1)
        pull = turn_and_scale((1, 1, 1), turn=turn, tilts=(0, 0), factor=turning.factor(zoom))
        pull[:, :2] *= np.where(np.array(flips) < 0.5, -1, 1)
        shares = zip((30, 26), size, (row, column), strict=True)
        begin = [patch_begin(n, m, share) for n, m, share in shares]
        alone = turned_slice(pixels, classes, begin, pull, size)
        torch.testing.assert_close(image, alone[0], atol=1e-4, rtol=0)
        assert (label != alone[1]).float().mean() < 0.01  # ties of nearest neighbours


def test_a_slice_does_not_depend_on_the_others_of_its_batch() -> None:
    some = Augmentation(flip=0.5, rotation=30, scale=0.3, gamma=0.5, noise=0.2, probability=0.6)
    images, labels = torch.empty(7, 1, 16, 20), torch.empty(7, 16, 20, dtype=torch.uint8)
    generators = [sample_generator(2, 0, index) for index in range(7)]
    slices = [slice_of(30, 26 + index) for index in range(7)]
    augmented_patches(slices, generators, crop="random", settings=some, out=(images, labels))
    for index, (pixels, classes) in enumerate(slices):
        generator = sample_generator(2, 0, index)
        image, label = augmented(pixels, classes, (16, 20), generator, crop="random", settings=some)
        assert torch.equal(images[index], image)
        assert torch.equal(labels[index], label)


def test_the_margin_holds_every_turned_corner() -> None:
    for rotation, scale in itertools.product((0, 15, 45, 90, 180), (0, 0.3)):
        for size in ((16, 16), (10, 40)):
            margin = turned_margin(size, Augmentation(rotation=rotation, scale=scale))
            for angle in np.linspace(-rotation, rotation, 73):
                pull = np.abs(turn_in_plane(math.radians(angle), 1 / (1 + scale), ()))
                reach = pull @ ((np.array(size) - 1) / 2)
                assert (reach <= (np.array(size) - 1) / 2 + np.array(margin)).all()


def test_labels_stay_labels() -> None:
    for index in range(20):
        image, label = patch(STRONG, 0, index)
        assert set(label.unique().tolist()) <= {0, 1, 2, 3, 255}
        assert image.isfinite().all()
        assert (image.shape, label.shape) == ((1, 16, 40), (16, 40))


def test_settings_do_not_disturb_each_other() -> None:
    """With the noise off, the label is moved as it was with the noise on."""
    still = Augmentation(flip=0.5, rotation=30, scale=0.3)
    for index in range(5):
        assert torch.equal(patch(STRONG, 0, index)[1], patch(still, 0, index)[1])


def test_flip_is_sure_at_one() -> None:
    pixels, classes = slice_of(30, 26)
    _, label = patch(Augmentation(flip=1.0), crop="center")
    mirrored = pixels[:, ::-1, ::-1].copy(), classes[::-1, ::-1].copy()
    expected = cut_patch(*mirrored, (16, 40))[1]
    assert torch.equal(label, expected)


def test_contrast_keeps_range_order_and_zero() -> None:
    image = torch.tensor([[-2.0, 0.0, 1.0, 2.0]])
    change_intensities(image, exponent=2.0, deviation=0, generator=sample_generator(0, 0, 0))
    torch.testing.assert_close(image, torch.tensor([[-2.0, 0.0, 0.25, 2.0]]))
    flat = torch.full((1, 3), 4.0)
    change_intensities(flat, exponent=2.0, deviation=0, generator=sample_generator(0, 0, 0))
    assert (flat == 4).all()


def test_noise_is_gaussian() -> None:
    generator = sample_generator(3, 0, 0)
    values = torch.from_numpy(gaussian(1_000_001, generator)).double()
    assert len(values) == 1_000_001
    assert values.mean().abs() < 4e-3
    assert values.var().item() == pytest.approx(1, abs=6e-3)
    assert (values.abs() < 1.959964).double().mean().item() == pytest.approx(0.95, abs=1e-3)
    neighbours = torch.corrcoef(torch.stack([values[:-1], values[1:]]))[0, 1]
    assert abs(neighbours) < 4e-3
    again = torch.from_numpy(gaussian(1_000_001, generator)).double()
    assert abs(torch.corrcoef(torch.stack([values, again]))[0, 1]) < 4e-3


def test_pieces_have_noise_of_their_own() -> None:
    image = torch.ones(1, 300, 300)
    change_intensities(image, exponent=1.0, deviation=0.5, generator=sample_generator(0, 0, 0))
    assert image.std().item() == pytest.approx(0.5, abs=5e-3)
    first, second = image.view(2, -1)
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 0.02


@pytest.mark.parametrize("name", ["flip", "rotation", "scale", "gamma", "noise"])
def test_bad_settings(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be finite and >= 0, got -1"):
        Augmentation(**{name: -1.0})
    assert not Augmentation(**{name: 0.5}).is_off
    assert Augmentation().is_off


def test_flip_is_a_probability() -> None:
    with pytest.raises(ValueError, match="is a probability and must be at most 1"):
        Augmentation(flip=1.5)


def test_samples_and_modalities_have_noise_of_their_own() -> None:
    noise = torch.ones(12, 4, 40, 40, 40)
    for index, image in enumerate(noise):
        generator = sample_generator(0, 0, index)
        change_intensities(image, exponent=1.0, deviation=1.0, generator=generator)
    noise -= 1
    for fields in (noise.flatten(1), noise.transpose(0, 1).flatten(1)):
        correlation = torch.corrcoef(fields.double()) - torch.eye(len(fields))
        assert correlation.abs().max() < 5 / math.sqrt(fields.shape[1])
    assert noise.var(0).mean().item() == pytest.approx(1, abs=0.01)  # at one voxel, over samples
