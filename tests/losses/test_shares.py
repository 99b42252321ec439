"""A batch shared among processes: which terms are means over its labeled voxels."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing import start_processes

from mbls.losses import CompoundLoss, DiceLoss, Loss, MarginLoss, soft_dice_loss
from mbls.module import SegmentationModule
from tests.losses.every_loss import NAMES, batch, build, classes

ALIKE = {"dca"}  # an absolute value of a mean: of parts that err to the same side it is one
SPAWNED = ("mbls", "mbls_dice", "focal", "ecp", "nacl", "cals", "crac_classes", "dscpp_ce")


class DiceOfAUser(Loss):
    """A loss that says nothing of its term."""

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        logits, target = self.prepare(logits, target)
        return {"overlap": soft_dice_loss(logits.softmax(dim=1), target)}


def halves(name: str) -> list[tuple[Tensor, Tensor]]:
    """A batch of which the first half has fewer labeled voxels than the second."""
    logits, target = batch(name, n=4)
    target[:2, :3] = -100
    return [(logits[half], target[half]) for half in (slice(2), slice(2, 4))]


@pytest.mark.parametrize("name", NAMES)
def test_terms_of_the_parts_give_those_of_the_whole(name: str) -> None:
    loss = build(name)
    loss.bind(classes(name))
    both = halves(name)
    whole = loss.terms(*(torch.cat(pair) for pair in zip(*both, strict=True)))
    parts = [loss.terms(*half) for half in both]
    voxels = [int((target != -100).sum()) for _, target in both]
    assert voxels[0] < voxels[1]
    for term, value in whole.items():
        mean = sum(n * part[term] for n, part in zip(voxels, parts, strict=True)) / sum(voxels)
        same = torch.isclose(mean, value, rtol=1e-9, atol=1e-12)
        if term not in ALIKE:
            assert bool(same) == (term in loss.voxel_mean_terms()), term


def test_the_names_are_those_of_the_terms() -> None:
    compound = CompoundLoss({
        "a": (1.0, MarginLoss(base=DiceLoss())),
        "b": (1.0, DiceLoss()),
        "c": (1.0, nn.CrossEntropyLoss()),
        "d": (1.0, MarginLoss(base=nn.CrossEntropyLoss())),
        "e": (1.0, build("focal")),
        "f": (1.0, MarginLoss(base=DiceOfAUser())),
    })  # fmt: skip
    terms = compound.terms(torch.randn(1, 3, 4, 4), torch.randint(3, (1, 4, 4)))
    means = {"a/margin", "d/margin", "e", "f/margin"}
    assert terms.keys() & compound.voxel_mean_terms() == means
    assert terms.keys() - means == {"a/dice", "b", "c", "d/base", "f/overlap"}


def losses() -> dict[str, Loss]:
    return {name: build(name) for name in SPAWNED} | {"a user's": DiceOfAUser()}


def shared_terms(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    found = {}
    for name, loss in losses().items():
        logits, target = torch.load(f"{folder}/{name}.pt")[rank]
        module = SegmentationModule(nn.Conv2d(1, 4, 1), loss, num_classes=4)
        found[name] = module._share(loss.terms(logits, target), target)
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.ddp
def test_the_mean_over_two_ranks(tmp_path: Path) -> None:
    """Of a voxel mean it is that of the whole batch; every other term stays as it is."""
    batches = {name: halves(name) for name in losses()}
    for name, both in batches.items():
        torch.save(both, tmp_path / f"{name}.pt")
    start_processes(shared_terms, (str(tmp_path),), nprocs=2, start_method="fork")
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, loss in losses().items():
        loss.bind(4)
        both = batches[name]
        whole = loss.terms(*(torch.cat(pair) for pair in zip(*both, strict=True)))
        for term, value in whole.items():
            shared = [rank[name][term] for rank in ranks]
            if term in loss.voxel_mean_terms():
                torch.testing.assert_close(sum(shared) / 2, value)
            else:
                assert shared == [loss.terms(*half)[term] for half in both]


def test_subclass_adds_to_the_voxel_means_of_its_base() -> None:
    class Mine(MarginLoss):
        voxel_means = frozenset({"size"})

    assert Mine().voxel_mean_terms() == {"ce", "margin", "size"}
