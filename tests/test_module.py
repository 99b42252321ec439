"""The module: any loss, several heads, precision, and no device sync in a step."""

import warnings
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNetPlusPlus, DynUNet
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mbls.inference import head_weights
from mbls.losses import CrossEntropyLoss, ImageLoss, MarginLoss
from mbls.module import SegmentationModule
from tests import tiny
from tests.blobs import BlobDataModule

pytestmark = pytest.mark.filterwarnings("ignore")


class Recorder(nn.Module):
    """A loss that records its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self.seen.append(logits)
        return nn.functional.cross_entropy(logits, target)


class Pixelwise(nn.Module):
    """A 1x1 convolution, once for each head."""

    def __init__(self, heads: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(1, 3, 1, stride=stride**k) for k in range(heads))

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        outputs = [head(image) for head in self.heads]
        return outputs if len(outputs) > 1 else outputs[0]


def module(network: nn.Module | None = None, loss: nn.Module | None = None, **settings: Any):
    return SegmentationModule(
        network or Pixelwise(), loss or CrossEntropyLoss(), num_classes=3, **settings
    )


def fit(built: SegmentationModule, *, data: Any = None, **settings: Any) -> Trainer:
    trainer = tiny.trainer(**settings)
    trainer.fit(built, datamodule=data or BlobDataModule(size=32))
    return trainer


@pytest.mark.parametrize(
    "loss",
    [
        DiceCELoss(to_onehot_y=True, softmax=True),
        nn.CrossEntropyLoss(),
        MarginLoss(5.0, base=DiceCELoss(to_onehot_y=True, softmax=True)),
    ],
    ids=["monai", "torch", "margin on monai"],
)
def test_losses_of_others_train(loss: nn.Module) -> None:
    built = module(loss=loss)
    before = [p.clone() for p in built.parameters()]
    trainer = fit(built)
    assert all(not torch.equal(p, q) for p, q in zip(before, built.parameters(), strict=True))
    assert torch.isfinite(trainer.callback_metrics["train/loss"])


@pytest.mark.parametrize(
    ("network", "heads", "main"),
    [
        (BasicUNetPlusPlus(2, 1, 3, features=(4, 4, 4, 4, 4, 4), deep_supervision=True), 4, -1),
        (
            DynUNet(2, 1, 3, [3, 3, 3, 3], [1, 2, 2, 2], [2, 2, 2], filters=[4, 4, 4, 4],
                    deep_supervision=True, deep_supr_num=2),
            3,
            0,
        ),
    ],
    ids=["unet++", "dynunet"],
)  # fmt: skip
def test_deep_supervision_trains_every_head(network: nn.Module, heads: int, main: int) -> None:
    built = module(network, Recorder(), main_head=main, divisor=16)
    batch = {"image": torch.randn(2, 1, 30, 26), "label": torch.randint(3, (2, 30, 26))}
    built.log = built.log_dict = lambda *args, **settings: None  # type: ignore[method-assign]
    loss = built.training_step(batch, 0)
    seen = built.loss.seen
    assert [tuple(logits.shape) for logits in seen] == [(2, 3, 30, 26)] * heads
    each = [nn.functional.cross_entropy(logits, batch["label"]) for logits in seen]
    weights = head_weights(heads, main)
    assert sum(weights) == pytest.approx(1)
    assert max(weights) == weights[main]
    wanted = sum(weight * value for weight, value in zip(weights, each, strict=True))
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    fit(built, limit_train_batches=1, limit_val_batches=1)


def test_heads_coarser_than_the_input_are_brought_to_its_size() -> None:
    built = module(Pixelwise(heads=3, stride=2), divisor=4)
    heads = built.heads(torch.randn(2, 1, 30, 26))
    assert [tuple(head.shape) for head in heads] == [(2, 3, 30, 26)] * 3


def test_terms_are_float32_under_bfloat16() -> None:
    loss = Recorder()
    built = module(loss=loss)
    trainer = fit(built, precision="bf16-mixed")
    assert loss.seen
    assert {logits.dtype for logits in loss.seen} == {torch.float32}
    assert trainer.callback_metrics["train/loss"].dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert built(torch.randn(1, 1, 8, 8)).dtype == torch.bfloat16  # the network's part
        terms = built.loss_terms(torch.randn(1, 3, 8, 8).bfloat16(), torch.zeros(1, 8, 8).long(),
                                 torch.zeros(1, 1, 8, 8))  # fmt: skip
    assert {term.dtype for term in terms.values()} == {torch.float32}


class NoSync(TorchDispatchMode):
    """Refuses operations that make the host wait for a device."""

    refused = ("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "unique")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in self.refused:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


def test_a_step_does_not_wait_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the CPU, where reading a value is free, takes the path of an accelerator."""
    monkeypatch.setattr("mbls.losses._checks.is_readable", lambda tensor: False)
    built = module(loss=MarginLoss(5.0))
    built.log = built.log_dict = lambda *args, **settings: None  # type: ignore[method-assign]
    batch = {"image": torch.randn(2, 1, 8, 8), "label": torch.randint(3, (2, 8, 8))}
    with NoSync():
        built.training_step(batch, 0).backward()
        with pytest.raises(AssertionError, match="waits for the device"):
            batch["image"].sum().item()


def test_terms_are_logged_and_sum_to_the_loss() -> None:
    logged = fit(module(loss=MarginLoss(0.1, alpha=0.5))).callback_metrics
    parts = logged["train/ce"] + logged["train/margin"]
    assert logged["train/loss"].item() == pytest.approx(parts.item(), rel=1e-5)
    assert {"val/dice", "val/ece", "val/ece_label", "val/cece", "val/nll"} <= logged.keys()


@pytest.mark.parametrize(("several", "ignored"), [(2, True), (2, False), (1, True)])
def test_accumulation_with_ignored_voxels_warns_once(several: int, ignored: bool) -> None:
    data = BlobDataModule(size=16, train=16)
    inner = data.train_dataloader

    def loader() -> Any:
        found = inner()
        collate = found.collate_fn

        def with_ignored(items: list[dict[str, Any]]) -> dict[str, Any]:
            batch = collate(items)
            batch["label"][:, 0] = -100 if ignored else batch["label"][:, 0]
            return batch

        found.collate_fn = with_ignored
        return found

    data.train_dataloader = loader  # type: ignore[method-assign]
    trainer = tiny.trainer(accumulate_grad_batches=several)
    with warnings.catch_warnings(record=True) as printed:
        warnings.simplefilter("always")
        trainer.fit(module(), datamodule=data)
    found = [str(one.message) for one in printed if "Accumulation over 2" in str(one.message)]
    assert len(found) == (several > 1 and ignored)


class Contrast(ImageLoss):
    """Wants the image."""

    def terms(self, logits: Tensor, target: Tensor, image: Tensor) -> dict[str, Tensor]:
        assert image.shape[1] == 1
        return {"contrast": (logits * image).mean()}


def test_a_loss_that_needs_the_image_gets_it() -> None:
    assert "train/loss" in fit(module(loss=Contrast())).callback_metrics


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 1}, "num_classes must be >= 2"),
        ({"divisor": 0}, "divisor must be >= 1, got 0"),
        ({"class_keys": ["a", "b"]}, "class_keys must name 3 classes"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentationModule(nn.Identity(), nn.Identity(), **{"num_classes": 3} | settings)


def test_an_input_of_the_training_size_is_padded_as_in_training() -> None:
    """One multiple of the divisor stays one, which a slice of that size does not."""
    shapes: list[tuple[int, ...]] = []

    class Noted(Pixelwise):
        def forward(self, image: Tensor) -> Tensor | list[Tensor]:
            shapes.append(tuple(image.shape[2:]))
            return super().forward(image)

    for patch in ((16, 16), (32, 32)):
        module(network=Noted(), divisor=16, patch_size=patch).eval()(torch.zeros(1, 1, 16, 16))
    assert shapes == [(16, 16), (16, 32)]


@pytest.mark.parametrize("given", ["[0.1, 2.0]", "[[0.1, 1.0], [0.7, 0.3]]"])
def test_tensor_in_a_configuration_round_trips(given: str) -> None:
    """Such as a matrix of costs: a resumed run is built from config.yaml."""
    parser = ArgumentParser()
    parser.add_argument("--costs", type=Tensor)
    stated = parser.parse_args([f"--costs={given}"])
    dumped = parser.dump(stated)
    assert yaml.safe_load(dumped)["costs"] == yaml.safe_load(given)
    assert torch.equal(parser.parse_string(dumped).costs, stated.costs)
