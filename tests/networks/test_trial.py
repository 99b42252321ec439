"""Patches that a network cannot be trained on."""

from collections.abc import Callable

import pytest
import torch
from monai.networks.nets import DynUNet, SegResNet, SwinUNETR, UNet
from torch import Tensor, nn

from mbls.networks.trial import check_patch
from mbls.runtime.errors import SettingError


def unet(dims: int) -> nn.Module:
    channels = {"in_channels": 1, "out_channels": 3, "channels": (2, 4, 8)}
    return UNet(spatial_dims=dims, strides=(2, 2), num_res_units=2, norm="INSTANCE", **channels)


def dynunet(dims: int) -> nn.Module:
    return DynUNet(
        dims, 1, 3, kernel_size=[3] * 4, strides=[1, 2, 2, 2], upsample_kernel_size=[2] * 3,
        filters=[2, 4, 8, 8], deep_supervision=True, deep_supr_num=2,
    )  # fmt: skip


def segresnet(dims: int) -> nn.Module:
    return SegResNet(dims, init_filters=8, in_channels=1, out_channels=3)


def swinunetr(dims: int) -> nn.Module:
    return SwinUNETR(1, 3, feature_size=12, window_size=4, spatial_dims=dims)


NETWORKS = [(unet, 4), (dynunet, 8), (segresnet, 8), (swinunetr, 32)]


def failure(network: nn.Module, *shape: int) -> str:
    """The network's error for zeros in training; empty if there is none."""
    try:
        network.train()(torch.zeros(*shape))
    except ValueError as error:
        return str(error)
    return ""


def refusal(network: nn.Module, *batch: int, divisor: int) -> str:
    try:
        check_patch(network, batch, divisor=divisor)
    except SettingError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("make", "divisor"), NETWORKS, ids=["unet", "dynunet", "seg", "swin"])
def test_a_patch_is_refused_where_the_network_fails(make, divisor: int, dims: int) -> None:
    network = make(dims)
    for size in (divisor - 1, divisor, divisor + 1):
        refused = refusal(network, 2, 1, *[size] * (dims - 1), divisor, divisor=divisor)
        padded = 2 * divisor if size > divisor else divisor
        fails = failure(network, 2, 1, *[padded] * (dims - 1), divisor)
        assert fails in refused
        assert bool(fails) == (make is not segresnet and size <= divisor) == bool(refused)
        if refused:
            assert f"> {divisor} on one axis for {make(dims)._get_name()}" in refused


def test_a_trial_changes_nothing() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).eval()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    before = torch.get_rng_state()
    check_patch(network, (2, 1, 9, 9), divisor=1)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    assert not network.training


@pytest.mark.parametrize("dims", [2, 3])
def test_a_patch_that_the_strides_do_not_divide(dims: int) -> None:
    with pytest.raises(SettingError, match=r"strides for UNet, .*divisor 1"):
        check_patch(unet(dims), (2, 1, *[18] * dims), divisor=1)
    check_patch(unet(dims), (2, 1, *[18] * dims), divisor=4)


def test_one_voxel_of_one_sample_cannot_be_normalized() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 4, 4), nn.BatchNorm2d(4))
    with pytest.raises(SettingError, match="more than 1 value per channel"):
        check_patch(network, (1, 1, 4, 4), divisor=4)
    check_patch(network, (2, 1, 4, 4), divisor=4)


class ValueDependent(nn.Module):
    """A network that reads its numbers."""

    def forward(self, image: Tensor) -> Tensor:
        return image if image.sum().item() > 0 else -image


class DeviceDependent(nn.Module):
    """A network with a list of devices."""

    def forward(self, image: Tensor) -> Tensor:
        return image * {"cpu": 1, "cuda": 2}[image.device.type]


@pytest.mark.parametrize("make", [ValueDependent, DeviceDependent, lambda: nn.LazyConv2d(2, 3)])
def test_a_network_that_needs_numbers_is_not_refused(make: Callable[[], nn.Module]) -> None:
    check_patch(make(), (1, 1, 3, 3), divisor=1)
