"""The module trains on soft labels ``(N, C, *S)``, and is evaluated on those of integers."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets import DynUNet
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mbls.losses import CompoundLoss, CrossEntropyLoss, DiceLoss, FocalLoss, MarginLoss, part_terms
from tests.blobs import BlobDataModule
from tests.test_module import NoSync, Pixelwise, fit, module

pytestmark = pytest.mark.filterwarnings("ignore")


class Recording(CompoundLoss):
    """Cross-entropy, Dice and margins; remembers its targets."""

    def __init__(self) -> None:
        margins = MarginLoss(1.0, base=DiceLoss())
        super().__init__({"ce": (1.0, CrossEntropyLoss()), "margins": (1.0, margins)})
        self.seen: list[Tensor] = []

    def terms(self, logits: Tensor, target: Tensor, image: Tensor | None = None) -> Any:
        self.seen.append(target)
        return super().terms(logits, target, image)


class ReadersDataModule(BlobDataModule):
    """The training label is the mean of two readers, who differ by a voxel's shift."""

    def train_dataloader(self) -> DataLoader:
        loader = super().train_dataloader()
        collate = loader.collate_fn

        def mean_of_readers(items: list[dict[str, Any]]) -> dict[str, Any]:
            batch = collate(items)
            batch["label"] = soft(batch["label"])
            return batch

        loader.collate_fn = mean_of_readers
        return loader


def soft(label: Tensor) -> Tensor:
    """Return float32 soft labels of three classes; the first row is ignored."""
    readers = [F.one_hot(each, 3).movedim(-1, 1).float() for each in (label, label.roll(1, -1))]
    mean = (readers[0] + readers[1]) / 2
    mean[:, :, 0] = -100
    return mean


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_trains_on_them(precision: str) -> None:
    loss = Recording()
    built = module(loss=loss)
    before = [p.clone() for p in built.parameters()]
    trainer = fit(built, data=ReadersDataModule(size=32), precision=precision)
    assert {(tuple(each.shape[1:]), each.dtype) for each in loss.seen} == {
        ((3, 32, 32), torch.float32)
    }
    assert any(((each > 0) & (each < 1)).any() for each in loss.seen)
    assert all(not torch.equal(p, q) for p, q in zip(before, built.parameters(), strict=True))
    logged = trainer.callback_metrics
    parts = [logged[f"train/{name}"] for name in ("ce", "margins/dice", "margins/margin")]
    assert logged["train/loss"].item() == pytest.approx(sum(parts).item(), rel=1e-5)
    assert logged["val/dice"].isfinite()


def test_every_head_of_deep_supervision_gets_them_at_full_size() -> None:
    network = DynUNet(2, 1, 3, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=[4] * 4,
                      deep_supervision=True, deep_supr_num=2)  # fmt: skip
    loss = Recording()
    target = soft(torch.randint(3, (2, 30, 26)))
    built = module(network, loss, divisor=16)
    built.training_step({"image": torch.randn(2, 1, 30, 26), "label": target}, 0).backward()
    assert len(loss.seen) == 3
    assert all(torch.equal(each, target) for each in loss.seen)


def test_a_step_does_not_wait_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mbls.losses._checks.is_readable", lambda tensor: False)
    built = module(loss=Recording())
    batch = {"image": torch.randn(2, 1, 8, 8), "label": soft(torch.randint(3, (2, 8, 8)))}
    with NoSync():
        built.training_step(batch, 0).backward()


@pytest.mark.parametrize("loss", [FocalLoss(), nn.CrossEntropyLoss()], ids=["ours", "of torch"])
def test_a_loss_of_integer_labels_refuses_at_the_first_step(loss: nn.Module) -> None:
    with pytest.raises(ValueError, match=rf"{type(loss).__name__} must get integer labels"):
        fit(module(loss=loss), data=ReadersDataModule(size=32))


def test_ranks_weight_their_terms_by_labeled_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    """This rank has 12 of 16 labeled voxels, another one 4."""
    target = soft(torch.randint(3, (1, 4, 4)))
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda total: total.add_(4 * 3))
    built = module(Pixelwise(), CrossEntropyLoss())
    terms = part_terms(built.loss, torch.randn(1, 3, 4, 4), target)
    shared = built._share(terms, target)
    assert shared["ce"].item() == pytest.approx(terms["ce"].item() * 2 * 12 / 16)


def test_evaluation_refuses_them() -> None:
    class Soft(BlobDataModule):
        def val_dataloader(self) -> list[DataLoader]:
            (loader,) = super().val_dataloader()
            collate = loader.collate_fn
            loader.collate_fn = lambda items: (b := collate(items)) | {"label": soft(b["label"])}
            return [loader]

    with pytest.raises(ValueError, match=r"one reader.*posterior"):
        fit(module(), data=Soft(size=32))
