"""Every configured loss trains: a small network learns a small task, and stays finite."""

import pytest
import torch
from torch import nn

from mbls.losses import Loss
from tests.losses.every_loss import CONFIGS, build, classes


def stripes(num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose brightness is the class plus noise."""
    target = torch.arange(12).div(12 / num_classes, rounding_mode="floor").long()
    target = target.expand(4, 12, 12).clone()
    target[:, :2] = -100
    image = target.clamp_min(0).unsqueeze(1) + 0.2 * torch.randn(4, 1, 12, 12)
    return image, target


@pytest.mark.parametrize("name", CONFIGS)
def test_loss_falls_and_the_network_learns(name: str) -> None:
    C = classes(name)
    image, target = stripes(C)
    network = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, C, 1))
    loss = build(name)
    assert isinstance(loss, Loss)
    loss.bind(C)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
    values = []
    for _ in range(40):
        optimizer.zero_grad()
        value = loss(network(image), target)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert all(torch.tensor(values).isfinite())
    assert values[-1] < values[0]
    kept = target >= 0
    right = (network(image).argmax(1) == target)[kept].float().mean().item()
    assert right > 0.5
