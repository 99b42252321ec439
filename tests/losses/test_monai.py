"""The losses in MONAI's trainers: ``loss_function=MarginLoss(5.0)``, labels ``(N, 1, *S)``."""

import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines.utils import default_prepare_batch
from monai.inferers import SimpleInferer
from monai.networks.nets import UNet
from monai.transforms import Compose, EnsureChannelFirstd, EnsureTyped
from torch import nn

from tests.losses.every_loss import build


def loader(dims: int) -> DataLoader:
    """Eight images whose brightness is the class, as MONAI's transforms hand them over."""
    items = []
    for _ in range(8):
        label = torch.randint(4, (16,) * dims).float()
        items.append({"image": label + 0.2 * torch.randn(label.shape), "label": label})
    keys = ["image", "label"]
    steps = [EnsureChannelFirstd(keys, channel_dim="no_channel"), EnsureTyped(keys)]
    return DataLoader(Dataset(items, Compose(steps)), batch_size=4, shuffle=False)


def network(dims: int) -> nn.Module:
    return UNet(dims, 1, 4, channels=(8, 16), strides=(2,), num_res_units=0)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["mbls", "nacl", "ace_soft"])
def test_a_loop_of_monais_pieces(name: str, dims: int) -> None:
    """What the trainer does at an iteration, without ignite."""
    torch.manual_seed(1)
    net, loss, inferer = network(dims), build(name), SimpleInferer()
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    batches = [default_prepare_batch(batch) for batch in loader(dims)]
    values = []
    for _ in range(10):
        for image, label in batches:
            assert label.shape == (4, 1, *[16] * dims)
            optimizer.zero_grad()
            value = loss(inferer(image, net), label).mean()  # as the trainer takes it
            value.backward()
            optimizer.step()
            values.append(float(value))
    assert torch.tensor(values).isfinite().all()
    assert sum(values[-2:]) < sum(values[:2])


def test_monais_supervised_trainer() -> None:
    pytest.importorskip("ignite", reason="MONAI's engines need pytorch-ignite")
    from monai.engines import SupervisedTrainer

    torch.manual_seed(1)
    net, values = network(2), []
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=10,
        train_data_loader=loader(2),
        network=net,
        optimizer=torch.optim.Adam(net.parameters(), 0.02),
        loss_function=build("mbls"),
    )
    trainer.add_event_handler(
        "ITERATION_COMPLETED", lambda e: values.append(e.state.output[0]["loss"])
    )
    trainer.run()
    assert len(values) == 20
    assert values[-1] < values[0]
