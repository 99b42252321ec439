"""Padding, heads, and whole volumes through 2D networks."""

from typing import Literal

import pytest
import torch
from monai.inferers import SimpleInferer, SliceInferer, SlidingWindowInferer
from torch import Tensor, nn

from datamodules.loading.patches import cut_at, empty_pair, patch_begin
from mbls.inference import (
    describe_inferer,
    head_weights,
    inferer_for,
    pad_to_multiple,
    split_heads,
    volume_logits,
)


@pytest.mark.parametrize("size", [(154, 214), (16, 16), (1, 5), (7, 9, 3)])
@pytest.mark.parametrize("divisor", [1, 8, 32])
def test_padding_reaches_the_multiple_and_is_cut_back(size: tuple[int, ...], divisor: int) -> None:
    image = torch.randn(2, 1, *size)
    padded, crop = pad_to_multiple(image, divisor)
    assert all(s % divisor == 0 for s in padded.shape[2:])
    assert all(s - o < divisor for s, o in zip(padded.shape[2:], size, strict=True))
    assert torch.equal(padded[crop], image)


def test_padding_repeats_the_border() -> None:
    padded, _ = pad_to_multiple(torch.arange(3.0).reshape(1, 1, 3), 4)
    assert padded.flatten().tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("size", "padded"),
    [((12, 10), (16, 32)), ((16, 16), (16, 32)), ((17, 3), (32, 16)), ((1, 1, 1), (16, 16, 32))],
)
def test_no_image_is_one_multiple_alone(size: tuple[int, ...], padded: tuple[int, ...]) -> None:
    image = torch.randn(2, 1, *size)
    found, crop = pad_to_multiple(image, 16, least=2)
    assert tuple(found.shape[2:]) == padded
    assert torch.equal(found[crop], image)


def test_heads_of_a_tensor_a_list_and_a_stack() -> None:
    plain = torch.randn(2, 4, 8, 8)
    assert len(split_heads(plain, 2)) == 1
    assert len(split_heads([plain, plain], 2)) == 2
    stack = torch.stack([plain, plain + 1], dim=1)
    heads = split_heads(stack, 2)
    assert torch.equal(heads[1], plain + 1)
    volume = torch.randn(2, 4, 8, 8, 8)  # five axes, but 3D: one head
    assert len(split_heads(volume, 3)) == 1


def test_head_weights_halve_from_the_main_head() -> None:
    assert head_weights(1, 0) == [1.0]
    assert head_weights(3, 0) == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    assert head_weights(3, -1) == pytest.approx([1 / 7, 2 / 7, 4 / 7])


def test_a_volume_is_its_slices() -> None:
    network = nn.Conv2d(1, 3, 3, padding=1)
    volume = torch.randn(1, 1, 11, 13, 18)  # more slices than go through the network at once
    inferer = inferer_for(2, (8, 8), window="whole")
    with torch.no_grad():
        logits = volume_logits(volume, network, inferer)
        slices = torch.stack([network(volume[..., z]) for z in range(18)], dim=-1)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, slices)


@pytest.mark.parametrize("size", [(9, 20, 13), (3, 4, 5), (9, 4, 6), (8, 8, 6)])
@pytest.mark.parametrize("dims", [2, 3])
def test_windows_of_a_pointwise_network_give_the_volume_back(
    dims: int, size: tuple[int, ...]
) -> None:
    """Also where the volume is smaller than a window: the padding is cut off."""
    network = nn.Conv3d(2, 3, 1)
    volume = torch.randn(1, 2, *size)

    def slices(image: Tensor) -> Tensor:
        return network(image[..., None])[..., 0]

    with torch.no_grad():
        chosen = slices if dims == 2 else network
        logits = volume_logits(volume, chosen, inferer_for(dims, (8, 8, 6)[:dims]))
        torch.testing.assert_close(logits, network(volume))


@pytest.mark.parametrize(("dims", "crop"), [(2, "random"), (2, "center"), (3, "random")])
def test_smaller_volumes_are_padded_as_in_training(
    dims: int, crop: Literal["center", "random"]
) -> None:
    """Smaller on the first axis, as large on the second: the network's input is the sample."""
    patch = (11, 6, 4)[:dims]
    volume = torch.randn(1, 2, 6, 6, 4)
    seen: list[Tensor] = []

    def network(image: Tensor) -> Tensor:
        seen.append(image.clone())
        return image

    volume_logits(volume, network, inferer_for(dims, patch, crop=crop))
    parts = volume[0].unbind(-1) if dims == 2 else [volume[0]]
    begin = [patch_begin(n, m, 0.5) for n, m in zip(parts[0].shape[1:], patch, strict=True)]
    samples = [
        cut_at(p.numpy(), p[0].numpy().astype("uint8"), begin, empty_pair(2, patch))[0]
        for p in parts
    ]
    assert torch.equal(torch.cat(seen), torch.stack(samples))


def test_larger_volumes_are_cut_into_windows_of_the_training_size() -> None:
    """One axis larger, the other smaller: every window has the size of a sample."""
    shapes: list[tuple[int, ...]] = []

    def network(image: Tensor) -> Tensor:
        shapes.append(tuple(image.shape))
        return image

    volume_logits(torch.randn(1, 1, 20, 5, 7), network, inferer_for(2, (8, 12)))
    assert {shape[1:] for shape in shapes} == {(1, 8, 12)}
    assert [shape[0] for shape in shapes] == [16, 12]  # four windows of each of seven slices


def test_slices_larger_than_samples_of_the_middle_go_whole() -> None:
    """Padded on the axis where they are smaller; the next volume is of another size."""
    shapes: list[tuple[int, ...]] = []

    def network(image: Tensor) -> Tensor:
        shapes.append(tuple(image.shape))
        return image.clone()

    inferer = inferer_for(2, (8, 12), crop="center")
    for size in ((20, 5, 7), (6, 13, 7)):
        volume = torch.randn(1, 1, *size)
        assert torch.equal(volume_logits(volume, network, inferer), volume)
    assert shapes == [(7, 1, 20, 12), (7, 1, 8, 13)]


def test_overlapping_windows_are_weighted_by_a_gaussian() -> None:
    """Two windows, each constant: in between, their logits mix by the distance to the centers."""
    values = iter([0.0, 1.0])
    inferer = inferer_for(3, (8, 4, 4), overlap=0.5)
    shape = (1, 1, 12, 4, 4)
    logits = volume_logits(torch.zeros(shape), lambda x: torch.full_like(x, next(values)), inferer)
    profile = logits[0, 0, :, 2, 2]
    assert profile[:4].tolist() == [0] * 4
    assert profile[8:].tolist() == [1] * 4
    nearer = torch.exp(-0.5 * ((torch.arange(4.0, 8) - 3.5) / 1) ** 2)
    further = torch.exp(-0.5 * ((torch.arange(4.0, 8) - 7.5) / 1) ** 2)
    torch.testing.assert_close(profile[4:8], further / (nearer + further), atol=0.02, rtol=0)


def test_logits_are_accumulated_in_float32_for_any_dtype_of_the_network() -> None:
    volume = torch.randn(1, 1, 12, 8, 8)
    network = nn.Conv3d(1, 2, 1)
    inferer = inferer_for(3, (8, 8, 8))
    with torch.no_grad():
        half = volume_logits(volume, lambda x: network(x).half(), inferer)
        half_in = volume_logits(volume.half(), lambda x: x.expand(-1, 2, -1, -1, -1), inferer)
        full = volume_logits(volume, network, inferer)
    assert half.dtype == half_in.dtype == torch.float32
    torch.testing.assert_close(half, full, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("axes", [(0,), (0, 2), (0, 1, 2)])
def test_mirroring_makes_the_prediction_symmetric(axes: tuple[int, ...]) -> None:
    network = nn.Conv3d(1, 2, 3, padding=1)
    volume = torch.randn(1, 1, 8, 8, 8)
    inferer = inferer_for(3, (8, 8, 8))
    with torch.no_grad():
        logits = volume_logits(volume, network, inferer, mirror=axes)
        for axis in axes:
            flipped = volume_logits(volume.flip(axis + 2), network, inferer, mirror=axes)
            torch.testing.assert_close(flipped.flip(axis + 2), logits)
        expected = network(volume)
        if axes == (0,):
            expected = (expected + network(volume.flip(2)).flip(2)) / 2
            torch.testing.assert_close(logits, expected)
        else:
            assert not torch.allclose(logits, expected, atol=1e-3)


def test_the_inferer_fits_the_dimensions() -> None:
    assert isinstance(inferer_for(2, (64, 64)), SliceInferer)
    inferer = inferer_for(3, [16, 16, 8])
    assert isinstance(inferer, SlidingWindowInferer)
    assert (inferer.roi_size, inferer.sw_batch_size) == ((16, 16, 8), 1)
    with pytest.raises(ValueError, match="patch_size must have 3 values"):
        inferer_for(3, (64, 64))
    with pytest.raises(ValueError, match=r"overlap must be in \[0, 1\), got 1"):
        inferer_for(3, (8, 8, 8), overlap=1)
    with pytest.raises(ValueError, match="window must be patch or padded or whole"):
        inferer_for(2, (8, 8), window="slice")  # type: ignore[arg-type]


def test_inference_is_described() -> None:
    assert describe_inferer(inferer_for(2, [112, 96])) == "windows of 112 x 96"
    assert describe_inferer(inferer_for(3, [16, 16, 8])) == "windows of 16 x 16 x 8"
    assert describe_inferer(inferer_for(3, (8, 8, 8), window="whole")) == "whole volumes"
    assert describe_inferer(inferer_for(2, None)) == "whole slices"
    padded = "whole slices, at least 8 x 9"
    assert describe_inferer(inferer_for(2, (8, 9), crop="center")) == padded
    assert describe_inferer(inferer_for(3, (8, 8, 8), crop="center")) == "windows of 8 x 8 x 8"
    assert describe_inferer(SimpleInferer()) == "SimpleInferer"
