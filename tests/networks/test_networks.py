"""Every network of the configurations builds, and its divisor is the right one."""

import itertools
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from mbls.inference import pad_to_multiple, split_heads
from mbls.networks import PaperUNet

CONFIGS = sorted(Path(__file__).parents[2].glob("experiments/configs/network/*.yaml"))
LINKED = {"spatial_dims": 2, "in_channels": 1, "out_channels": 4}


def build(path: Path) -> tuple[nn.Module, int]:
    model = yaml.safe_load(path.read_text())["model"]
    model["network"]["init_args"] |= LINKED
    parser = ArgumentParser()
    parser.add_subclass_arguments(nn.Module, "network")
    config = parser.parse_object({"network": model["network"]})
    return parser.instantiate(config).network.eval(), model["divisor"]


def run(network: nn.Module, image: Tensor) -> Tensor:
    with torch.inference_mode():
        return split_heads(network(image), spatial_dims=2)[0]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configured_network_keeps_the_padded_size(path: Path) -> None:
    network, divisor = build(path)
    image, crop = pad_to_multiple(torch.randn(1, 1, 154, 214), divisor)
    logits = run(network, image)
    assert logits.shape == (1, 4, *image.shape[2:])
    assert logits[crop].shape == (1, 4, 154, 214)
    odd = run(network, torch.randn(1, 1, 3 * divisor, 5 * divisor))
    assert odd.shape == (1, 4, 3 * divisor, 5 * divisor)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_divisor_is_the_smallest_that_works(path: Path) -> None:
    """Half the divisor is no multiple of the poolings: the network fails or changes the size."""
    if path.stem == "unetpp":
        pytest.skip("repeats its border inside, wherever a size is odd")
    network, divisor = build(path)
    size = 7 * divisor // 2
    try:
        shape = run(network, torch.randn(1, 1, size, size)).shape
    except (RuntimeError, ValueError):
        return
    assert shape != (1, 4, size, size)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configured_network_states_every_argument(path: Path) -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(nn.Module, "network")
    network = yaml.safe_load(path.read_text())["model"]["network"]
    stated = set(network["init_args"]) | set(LINKED)
    parsed = parser.parse_object(
        {
            "network": {
                "class_path": network["class_path"],
                "init_args": network["init_args"] | LINKED,
            }
        }
    )
    assert stated == set(vars(parsed.network.init_args))


def test_paper_unet_has_the_published_shape() -> None:
    """Nine convolution pairs and a head, counted by hand for 1 channel and 4 classes."""
    network = PaperUNet(2, 1, 4)
    f = (32, 64, 128, 256, 512)
    pairs = [(1, f[0]), *itertools.pairwise(f)]
    pairs += [(coarse + fine, fine) for fine, coarse in itertools.pairwise(f)]
    expected = sum(9 * (i * o + o * o) + 2 * o for i, o in pairs) + 4 * (f[0] + 1)
    assert sum(p.numel() for p in network.parameters()) == expected
    assert not [m for m in network.modules() if "Norm" in type(m).__name__]


def test_paper_unet_in_three_dimensions_backpropagates() -> None:
    network = PaperUNet(3, 2, 3, features=(4, 6, 8), pools=(2, 4))
    network(torch.randn(1, 2, 8, 16, 8)).square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_paper_unet_refuses_levels_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"pools must have one entry fewer than features \(3\)"):
        PaperUNet(2, 1, 4, features=(4, 8, 8), pools=(2,))
    with pytest.raises(ValueError, match="kernel_size must be odd and positive, got 4"):
        PaperUNet(2, 1, 4, kernel_size=4)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_training_reaches_every_parameter(path: Path) -> None:
    """Where one is left out, training on several ranks stops at the second step."""
    network, divisor = build(path)
    heads = split_heads(network.train()(torch.randn(2, 1, 2 * divisor, 2 * divisor)), 2)
    torch.stack([head.square().mean() for head in heads]).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
