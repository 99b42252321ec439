"""On a GPU: the same bits of metrics, a step without waiting, mixed precision.

Each test runs on a CUDA device where there is one, and also on the CPU, or on the meta device,
whose tensors have no values, so that reading one raises.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.inferers import SimpleInferer
from torch import Tensor, nn

from mbls.metrics import (
    REGIONS,
    CalibrationHistogram,
    DiceScore,
    FineHistogram,
    HausdorffDistance95,
    NormalizedSurfaceDice,
)
from mbls.module import SegmentationModule
from tests.blobs import BlobDataModule
from tests.losses.every_loss import NAMES, batch, build, classes

CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
PLACES = [  # of the voxels, of the states
    ("cpu", "cpu"),
    pytest.param("cuda", "cuda", marks=pytest.mark.gpu),
    pytest.param("cpu", "cuda", marks=pytest.mark.gpu),
]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
UNIONS = {"some": (1, 2), "rest": (0, 3)}


@contextmanager
def no_wait(device: str) -> Iterator[None]:
    """Raise where the host waits for the device."""
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")


# Losses and steps ---------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["meta", CUDA])
@pytest.mark.parametrize("name", NAMES)
def test_no_loss_makes_a_step_wait(name: str, device: str) -> None:
    logits, target = batch(name, (6, 7), dtype=torch.float32)
    loss = build(name)
    loss.bind(classes(name))
    loss.to(device)
    leaf, labels = logits.to(device).requires_grad_(), target.to(device)
    loss(leaf, labels).backward()  # what is made once may wait
    with no_wait(device):
        loss(leaf, labels).backward()
    assert leaf.grad is not None
    assert leaf.grad.device.type == device


def made(loss: nn.Module, device: str, **settings: Any) -> SegmentationModule:
    network = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 4, 1))
    args = {"spatial_dims": 3, "patch_size": (8, 8, 4), "num_classes": 4, "divisor": 4}
    return SegmentationModule(network, loss, **(args | settings)).to(device)


def patches(device: str) -> dict[str, Any]:
    label = torch.randint(4, (2, 9, 8, 4))
    label[0, 0] = -100
    image = label.clamp_min(0)[:, None].float() + torch.randn(2, 1, 9, 8, 4) / 4
    return {"image": image.to(device), "label": label.to(device)}


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("name", ["ce", "mbls", "nacl", "cals", "crac", "mmce", "adafocal"])
def test_mixed_precision_trains_and_no_step_waits(name: str, device: str) -> None:
    module, data = made(build(name), device).train(), patches(device)
    half = torch.float16 if device == "cuda" else torch.bfloat16
    scaler = torch.amp.GradScaler(device, init_scale=256.0)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, half):
            loss = module.training_step(data, 0)
        scaler.scale(loss).backward()
        return loss.detach()

    values = []
    for _ in range(8):
        values.append(step())
        scaler.step(optimizer)
        scaler.update()
    with no_wait(device):
        step()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.network.parameters())
    assert values[0].dtype == torch.float32
    assert torch.stack(values).isfinite().all()
    assert values[-1] < values[0]


# Metrics ------------------------------------------------------------------------------------------


def voxels(dtype: torch.dtype) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Two volumes with ties, certainty, ignored voxels and structures that are absent."""
    coarse = torch.randn(2, 4, 4, 4, 3) * 3
    logits = nn.functional.interpolate(coarse, (17, 16, 12)) + torch.randn(2, 4, 17, 16, 12)
    target = (logits + torch.randn_like(logits)).argmax(1)
    probs = logits.softmax(1).to(dtype)
    probs[0, :, 0] = 0.25
    probs[0, :, 1], probs[0, 2, 1] = 0, 1
    probs[1, :, 2], probs[1, :2, 2] = 0, 0.5
    target[0, 3:5], target[1][target[1] == 3] = -100, 0
    spacing = torch.tensor([[1.0, 1.0, 3.0], [0.7, 0.7, 5.0]])
    return probs, target, {"spacing": spacing, "index": torch.arange(2)}


def counted(
    probs: Tensor, target: Tensor, args: dict[str, Tensor], *, at: str, states: str
) -> dict[str, Tensor]:
    """Count voxels that lie on one device into states of the same or another."""
    settings: dict[str, Any] = {"num_classes": 4, "unions": UNIONS}
    posterior = {"posterior": probs.flip(1)}
    metrics = {
        "histogram": CalibrationHistogram(regions=REGIONS, num_cases=2, **settings),
        "pooled": CalibrationHistogram(**settings),
        "fine": FineHistogram(**settings),
        "dice": DiceScore(num_cases=2, **settings),
        "mean dice": DiceScore(**settings),
        "hd95": HausdorffDistance95(num_cases=2, **settings),
        "nsd": NormalizedSurfaceDice(num_cases=2, **settings),
    }
    found = {}
    for name, metric in metrics.items():
        metric.to(states)
        more = posterior if name == "histogram" else {}
        given = {key: value.to(at) for key, value in (args | more).items()}
        metric.update(probs.to(at), target.to(at), **given)
        for state in metric._defaults:
            value = getattr(metric, state)
            assert value.device.type == states, (name, state)
            found[f"{name}.{state}"] = value.cpu()
    return found


@pytest.mark.parametrize(("at", "states"), PLACES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_metrics_are_the_same_bits_on_every_device(
    dtype: torch.dtype, at: str, states: str
) -> None:
    probs, target, args = voxels(dtype)
    expected = counted(probs, target, args, at="cpu", states="cpu")
    turned = probs.movedim(1, -1).contiguous().movedim(-1, 1)  # another order in memory
    found = counted(turned, target, args, at=at, states=states)
    assert len(found) == len(expected) > 10
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("shape", [(5,), (33, 17), (13, 12, 7)], ids=["1d", "2d", "3d"])
@pytest.mark.parametrize("turned", [False, True])
def test_softmax_in_place_is_softmax(shape: tuple[int, ...], turned: bool, device: str) -> None:
    logits = (torch.randn(1, 14, *shape) * 8).to(device)
    if turned:
        logits = logits.movedim(1, -1).contiguous().movedim(-1, 1)
    expected = logits.softmax(1)
    found = torch.softmax(logits, dim=1, out=logits)
    assert found is logits
    assert torch.equal(found, expected)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("grid", ["preprocessed", "native"])
@pytest.mark.parametrize("dims", [2, 3])
def test_output_device_does_not_change_the_scores(
    dims: int, grid: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    label = torch.randint(4, (1, 8, 12, 4)).repeat_interleave(2, 1)
    image = (label[:, None].float() + torch.randn(1, 1, 16, 12, 4)).to(device)
    spacing = torch.tensor([[1.0, 1.0, 5.0]])

    class Data(BlobDataModule):
        def cases(self, part: str) -> list[str]:
            return ["only"]

        def restore(self, case: str, logits: Tensor) -> tuple[Tensor, Any]:
            return logits.flip(1), None

        def truth(self, case: str) -> dict[str, Tensor]:
            return {"label": label.flip(1), "spacing": spacing}

    trainer = SimpleNamespace(datamodule=Data(), callbacks=[])
    monkeypatch.setattr(SegmentationModule, "trainer", trainer)
    case = {"image": image, "label": label.to(device), "spacing": spacing, "case": ["only"]}
    case |= {"index": torch.tensor([0]), "scored": torch.tensor([True])}
    found = []
    for output_device in (None, "cpu"):
        torch.manual_seed(1)
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims](1, 4, 3, padding=1)
        module = SegmentationModule(
            conv, build("ce"), spatial_dims=dims, patch_size=(8, 8, 4)[:dims], num_classes=4,
            grid=grid, output_device=output_device,
        )  # fmt: skip
        module.setup("test")
        module.to(device).eval()
        with torch.inference_mode():
            scored = module.test_step(case, 0)
        assert scored is not None
        assert scored["probs"].device.type == scored["batch"]["label"].device.type
        assert scored["probs"].device.type == (output_device or device)
        metrics = module.test_metrics
        assert all(metric.device.type == device for metric in metrics.metrics())
        found.append((metrics.histogram.sums, metrics.dice.counts))
        assert metrics.histogram.sums[0, 0, 0] == label.numel()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3 if device == "cuda" else 0, atol=0)


def test_device_for_the_output_of_another_inferer_is_refused() -> None:
    own = SimpleInferer()
    with pytest.raises(ValueError, match=r"output_device must be None .*'cpu'.* SimpleInferer"):
        made(build("ce"), "cpu", inferer=own, output_device="cpu")
