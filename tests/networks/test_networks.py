"""Every network of the configurations builds, and its divisor is the right one."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from mbls.inference import pad_to_multiple, split_heads
from mbls.networks import NNUNet, PaperUNet
from mbls.networks.nnunet import plan_strides

FOLDER = Path(__file__).parents[2] / "experiments/configs/network"
CONFIGS = sorted(path for path in FOLDER.glob("*.yaml") if "." not in path.stem)
SMALL = sorted(path for path in FOLDER.glob("*.yaml") if "." in path.stem)
CHANNELS = {"in_channels": 1, "out_channels": 4}
PLANNED = ("mbls.networks.NNUNet",)  # take the patch size
named = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
every = pytest.mark.parametrize("path", CONFIGS + SMALL, ids=lambda path: path.stem)


def settings(path: Path) -> tuple[dict[str, Any], int, int]:
    """The network, its divisor and its dimensions; ``x.quick`` is laid over ``x``."""
    own = path.with_name(f"{path.stem.partition('.')[0]}.yaml")
    content, changes = (yaml.safe_load(file.read_text()) for file in (own, path))
    dims = content.get("data", {"init_args": {"spatial_dims": 2}})["init_args"]["spatial_dims"]
    network, overlay = content["model"]["network"], changes["model"]["network"]
    assert network["class_path"] == overlay["class_path"]
    network["init_args"] |= overlay["init_args"] | CHANNELS | {"spatial_dims": dims}
    if network["class_path"] in PLANNED:
        network["init_args"]["img_size"] = [64] * dims
    return network, (content["model"] | changes["model"])["divisor"], dims


def build(path: Path, device: str = "cpu") -> tuple[nn.Module, int, int]:
    network, divisor, dims = settings(path)
    parser = ArgumentParser()
    parser.add_subclass_arguments(nn.Module, "network")
    config = parser.parse_object({"network": network})
    built = parser.instantiate(config).network.eval().to(device)
    return built, built.divisor[0] if divisor is None else divisor, dims


def run(network: nn.Module, image: Tensor) -> Tensor:
    with torch.inference_mode():
        return split_heads(network(image), spatial_dims=image.ndim - 2)[0]


@every
def test_configured_network_keeps_the_padded_size(path: Path) -> None:
    """On the meta device, which computes shapes alone."""
    network, divisor, dims = build(path, "meta")
    size = (154, 214) if dims == 2 else (76, 90, 51)
    image, crop = pad_to_multiple(torch.randn(1, 1, *size, device="meta"), divisor)
    logits = run(network, image)
    assert logits.shape == (1, 4, *image.shape[2:])
    assert logits[crop].shape == (1, 4, *size)
    odd = [3 * divisor, 5 * divisor, 2 * divisor][:dims]
    assert run(network, torch.randn(1, 1, *odd, device="meta")).shape == (1, 4, *odd)


@every
def test_the_divisor_is_the_smallest_that_works(path: Path) -> None:
    """Half the divisor is no multiple of the poolings: the network fails or changes the size."""
    if path.stem == "unetpp":
        pytest.skip("pads odd sizes itself")
    network, divisor, dims = build(path, "meta")
    size = [7 * divisor // 2] * dims
    try:
        shape = run(network, torch.randn(1, 1, *size, device="meta")).shape
    except (RuntimeError, ValueError):
        return
    assert shape != (1, 4, *size)


@named
def test_configured_network_states_every_argument(path: Path) -> None:
    parser = ArgumentParser()
    parser.add_subclass_arguments(nn.Module, "network")
    network, _, _ = settings(path)
    stated = yaml.safe_load(path.read_text())["model"]["network"]["init_args"]
    parsed = parser.parse_object({"network": network})
    linked = {*CHANNELS, "spatial_dims"}
    assert set(stated) | linked == set(vars(parsed.network.init_args))


@pytest.mark.parametrize(
    ("size", "divisor", "levels"),
    [
        ((48, 64), (8, 16), 5),
        ((48, 64, 48), (8, 16, 8), 5),
        ((160, 160, 16), (32, 32, 4), 6),
        ((512, 512), (32, 32), 6),
        ((16, 20), (4, 4), 3),
    ],
)
def test_depth_and_strides_follow_from_the_patch(
    size: tuple[int, ...], divisor: tuple[int, ...], levels: int
) -> None:
    network = NNUNet(len(size), 1, 3, img_size=size, features=2, max_features=4).to("meta")
    assert network.divisor == divisor
    assert len(plan_strides(size)) == levels
    padded, crop = pad_to_multiple(torch.zeros(1, 1, *size, device="meta"), divisor)
    assert network(padded)[crop].shape == (1, 3, *size)


def test_thin_axes_are_halved_at_the_deeper_levels() -> None:
    assert plan_strides((64, 64, 16)) == [[1] * 3, [2, 2, 1], [2, 2, 1], [2] * 3, [2] * 3]


@pytest.mark.parametrize("size", [(12, 12), (64, 64, 64), (64,), None])
def test_sizes_that_no_network_is_planned_for(size: tuple[int, ...] | None) -> None:
    with pytest.raises(ValueError, match=r"img_size.*2 values.*16"):
        NNUNet(2, 1, 3, img_size=size)


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
    with pytest.raises(ValueError, match=r"pools .* features \(3\)"):
        PaperUNet(2, 1, 4, features=(4, 8, 8), pools=(2,))
    with pytest.raises(ValueError, match=r"kernel_size .* got 4"):
        PaperUNet(2, 1, 4, kernel_size=4)


@pytest.mark.parametrize(
    "path",
    [path for path in CONFIGS if not path.with_name(f"{path.stem}.quick.yaml").exists()] + SMALL,
    ids=lambda path: path.stem,
)
def test_training_reaches_every_parameter(path: Path) -> None:
    """Where one is left out, training on several ranks stops at the second step."""
    network, divisor, dims = build(path)
    heads = split_heads(network.train()(torch.randn(1, 1, *[2 * divisor] * dims)), dims)
    torch.stack([head.square().mean() for head in heads]).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_deep_supervision_trains_all_heads_at_full_size() -> None:
    network, divisor, _ = build(FOLDER / "dynunet3d.yaml", "meta")
    image = torch.randn(1, 1, *[2 * divisor] * 3, device="meta")
    heads = split_heads(network.train()(image), 3)
    assert [head.shape for head in heads] == [(1, 4, *image.shape[2:])] * 4
    assert len(split_heads(network.eval()(image), 3)) == 1
