"""Padding, heads, and whole volumes through 2D networks."""

import pytest
import torch
from monai.inferers import SliceInferer
from torch import nn

from mbls.inference import head_weights, pad_to_multiple, split_heads, volume_logits


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
    volume = torch.randn(1, 1, 11, 13, 5)
    inferer = SliceInferer(roi_size=(-1, -1), spatial_dim=2, sw_batch_size=2)
    with torch.no_grad():
        logits = volume_logits(volume, network, inferer)
        slices = torch.stack([network(volume[..., z]) for z in range(5)], dim=-1)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, slices)
