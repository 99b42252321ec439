"""Random changes to training samples: their effect, and their random seeds."""

import math

import numpy as np
import pytest
import torch

from datamodules import Augmentation
from datamodules.loading.augmentation import augmented_patch, change_intensities, sample_generator
from datamodules.loading.patches import cut_at, empty_pair

STRONG = Augmentation(flip=0.5, rotation=30, tilt=20, scale=0.3, gamma=0.5, noise=0.2)
MOVING = Augmentation(flip=0.5, rotation=30, tilt=20, scale=0.3)
SPACING = (1.0, 1.2, 2.0)
Patch = tuple[torch.Tensor, torch.Tensor]
both = pytest.mark.parametrize("axes", [2, 3])


def arrays(axes: int) -> tuple[np.ndarray, np.ndarray]:
    rng, shape = np.random.default_rng(0), (22, 26, 10)[:axes]
    classes = rng.integers(0, 4, shape).astype(np.uint8)
    pixels = rng.normal(size=(2, *shape)).astype(np.float32)
    pixels[:, :4], classes[0] = 0, 255
    return pixels, classes


def patch(
    settings: Augmentation, axes: int, epoch: int = 0, index: int = 0, seed: int = 5
) -> Patch:
    out = empty_pair(2, (16, 14, 8)[:axes])
    augmented_patch(
        *arrays(axes),
        (2, 3, 1)[:axes],
        spacing=SPACING[:axes],
        settings=settings,
        generator=sample_generator(seed, epoch, index),
        out=out,
    )
    return out


@both
def test_draws_are_of_seed_epoch_and_index(axes: int) -> None:
    first, again = patch(STRONG, axes, 1, 2), patch(STRONG, axes, 1, 2)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    for other in (
        patch(STRONG, axes, 2, 1),
        patch(STRONG, axes, 1, 3),
        patch(STRONG, axes, 1, 2, 6),
    ):
        assert not torch.equal(first[0], other[0])
    assert first[0].isfinite().all()
    assert set(first[1].unique().tolist()) <= {0, 1, 2, 3, 255}


def test_no_draws_are_repeated() -> None:
    """No two samples of 30 epochs and two seeds have the same draws."""
    draws = [
        tuple(sample_generator(seed, epoch, index).random(2).tolist())
        for seed in (0, 1)
        for epoch in range(30)
        for index in range(20)
    ]
    assert len(set(draws)) == 2 * 30 * 20


def test_image_and_label_move_together() -> None:
    """An image that is its label: only within two pixels of an edge may the two disagree."""
    y, x = np.mgrid[:61, :47]
    heart, other = np.hypot(y - 25, x - 20), np.hypot(y - 40, x - 32)
    classes = np.select([heart < 6, heart < 11, other < 8], [3, 2, 1], 0).astype(np.uint8)
    for index in range(10):
        image, label = empty_pair(1, (50, 64))
        augmented_patch(
            classes[None].astype(np.float32),
            classes,
            (index, -8),
            spacing=(1, 1),
            settings=MOVING,
            generator=sample_generator(1, 0, index),
            out=(image, label),
        )
        around = label.unfold(0, 5, 1).unfold(1, 5, 1).flatten(2)  # 5 x 5 about a pixel
        flat = (around == around[..., :1]).all(-1)
        image, label = image[:, 2:-2, 2:-2], label[2:-2, 2:-2]
        assert (label[flat] != 255).sum() > 100
        known = flat & (label != 255)
        torch.testing.assert_close(image[0][known], label[known].float(), atol=1e-5, rtol=0)
        assert (image[0][flat & (label == 255)] == 0).all()


@both
def test_settings_do_not_disturb_each_other(axes: int) -> None:
    """With the noise off, the label is moved as it was with the noise on."""
    for index in range(5):
        moved = patch(MOVING, axes, 0, index)[1]
        assert torch.equal(patch(STRONG, axes, 0, index)[1], moved)


@both
def test_flips_mirror_image_and_label(axes: int) -> None:
    image, label = patch(Augmentation(flip=1.0), axes)
    plain = cut_at(*arrays(axes), (2, 3, 1)[:axes], empty_pair(2, image.shape[1:]))
    assert torch.equal(image, plain[0].flip(tuple(range(1, axes + 1))))
    assert torch.equal(label, plain[1].flip(tuple(range(axes))))


def test_intensity_changes_leave_zero_and_labels_alone() -> None:
    plain, label = patch(Augmentation(), 3)
    changed, same = patch(Augmentation(gamma=0.5, noise=0.2), 3)
    assert torch.equal(label, same)
    assert (changed[plain == 0] == 0).all()
    assert (changed[plain != 0] != plain[plain != 0]).float().mean() > 0.99


def test_probability_is_the_share_of_changed_samples() -> None:
    plain, _ = patch(Augmentation(), 3)
    rare = Augmentation(noise=0.5, probability=0.25)
    changed = sum(not torch.equal(patch(rare, 3, 0, index)[0], plain) for index in range(200))
    assert 30 <= changed <= 70


def test_contrast_keeps_range_order_and_zero() -> None:
    image = torch.tensor([[-2.0, 0.0, 1.0, 2.0]])
    change_intensities(image, exponent=2.0, deviation=0, generator=sample_generator(0, 0, 0))
    torch.testing.assert_close(image, torch.tensor([[-2.0, 0.0, 0.25, 2.0]]))
    flat = torch.full((1, 3), 4.0)
    change_intensities(flat, exponent=2.0, deviation=0, generator=sample_generator(0, 0, 0))
    assert (flat == 4).all()


def test_noise_is_gaussian_and_fresh() -> None:
    """No value comes twice, and neighbors, modalities and samples have nothing in common."""
    noise = torch.ones(6, 4, 50, 50, 50)
    for index, image in enumerate(noise):
        generator = sample_generator(0, 0, index)
        change_intensities(image, exponent=1.0, deviation=0.5, generator=generator)
    noise = (noise - 1).double()
    assert noise.std().item() == pytest.approx(0.5, abs=1e-3)
    assert (noise.abs() < 0.5 * 1.959964).double().mean().item() == pytest.approx(0.95, abs=1e-3)
    for rows in (noise.flatten(1), noise.transpose(0, 1).flatten(1), noise.view(2, -1)):
        correlation = torch.corrcoef(rows) - torch.eye(len(rows))
        assert correlation.abs().max() < 5 / math.sqrt(rows.shape[1])
    values = noise.flatten()
    assert abs(torch.corrcoef(torch.stack([values[:-1], values[1:]]))[0, 1]) < 4e-3
    for lag in (1 << 12, 1 << 15, 1 << 20):
        shared = values[lag:].eq(values[:-lag]).double().mean()
        assert shared < 1e-4


@pytest.mark.parametrize("name", ["flip", "rotation", "tilt", "scale", "gamma", "noise"])
def test_bad_settings(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be finite and >= 0, got -1"):
        Augmentation(**{name: -1.0})
    assert not Augmentation(**{name: 0.5}).is_off
    assert Augmentation(**{name: 0.5}, probability=0).is_off == (name != "flip")
    assert Augmentation().is_off


def test_flip_is_a_probability() -> None:
    with pytest.raises(ValueError, match=r"at most 1, got 1\.5"):
        Augmentation(flip=1.5)
