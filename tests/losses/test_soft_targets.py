"""Soft labels: class probabilities of each voxel, such as the mean of several readers' labels."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from monai.data import MetaTensor
from monai.losses import DiceCELoss
from torch import Tensor, nn

from mbls.losses import (
    BinnedCalibrationLoss,
    BrierLoss,
    ClasswiseMeanCalibrationLoss,
    CompoundLoss,
    CrossEntropyLoss,
    DiceCrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    Loss,
    MarginLoss,
    PenaltyLoss,
    neighbor_proportions,
    soft_dice_loss,
)
from mbls.losses.catalogue import loss_entries
from tests.losses.every_loss import CONFIGS, NAMES, batch, build, classes
from tests.losses.test_contract import value_and_gradient
from tests.losses.test_properties import draw, seeds, shapes

HARD = {
    *("focal", "focal_half", "focal_weighted", "focal_adaptive", "focal_adaptive_weighted", "fcl"),
    *("adafocal", "adafocal_inverse", "cpc", "dca", "mmce", "mmce_weighted", "unified_focalpp"),
    *("dscpp", "dscpp_ce", "dscpp_weighted", "tverskypp", "tverskypp_weighted"),
    *("focal_tverskypp", "focal_tverskypp_weighted", "crac", "crac_classes", "cals_regions"),
}
SOFT = [name for name in NAMES if name not in HARD]
OF_PROBABILITIES = [name for name in SOFT if not name.startswith(("nacl", "svls"))]
every_soft_loss = pytest.mark.parametrize("name", SOFT)
close = torch.testing.assert_close


def one_hot(target: Tensor, num_classes: int = 4) -> Tensor:
    """Float64 maps; every channel of an ignored voxel is -100."""
    maps = F.one_hot(target.clamp_min(0), num_classes).movedim(-1, 1).double()
    return maps.masked_fill((target < 0).unsqueeze(1), -100)


def soft_batch(
    space: tuple[int, ...] = (4, 5), n: int = 2, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Logits and the mean labels of three readers, some voxels with every probability > 0."""
    logits, target = batch("ce", space, n, dtype)
    readers = [target, target.flip(0), torch.randint(4, target.shape)]
    soft = torch.stack([one_hot(labels) for labels in readers]).mean(dim=0)
    blurred = torch.where(torch.rand(target.shape).unsqueeze(1) < 0.3, 0.9 * soft + 0.025, soft)
    return logits, blurred.to(dtype)


def some_ignored(soft: Tensor) -> tuple[Tensor, Tensor]:
    """Soft labels with ignored voxels, and the mask of the others."""
    keep = torch.rand(soft[:, 0].shape) < 0.6
    keep[0].flatten()[0], keep[-1].flatten()[-1] = True, False
    return soft.masked_fill(~keep.unsqueeze(1), -100), keep


@settings(max_examples=6, deadline=None)
@given(seed=seeds, space=shapes)
@every_soft_loss
def test_one_hot_labels_give_what_integers_give(
    name: str, seed: int, space: tuple[int, ...]
) -> None:
    logits, target = draw(name, space, seed)
    expected = value_and_gradient(build(name), logits, target)
    close(value_and_gradient(build(name), logits, one_hot(target, classes(name))), expected)


@every_soft_loss
def test_any_number_of_axes_dtypes_and_layouts(name: str) -> None:
    for space in [(), (9,), (4, 5), (3, 4, 5)]:
        logits, soft = soft_batch(space, n=8)
        value, gradient = expected = value_and_gradient(build(name), logits, soft)
        assert value.isfinite()
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0
        last = soft.movedim(1, -1).contiguous().movedim(-1, 1)
        for same in (last, MetaTensor(soft), soft.clone().requires_grad_()):
            close(value_and_gradient(build(name), logits, same), expected)
        loss = build(name)(logits.float().requires_grad_(), soft)
        assert loss.dtype == torch.float32
        close(loss.double(), value, rtol=1e-4, atol=1e-5)


@every_soft_loss
def test_no_gradient_flows_into_the_labels(name: str) -> None:
    logits, soft = soft_batch()
    leaf = soft.requires_grad_()
    build(name)(logits.requires_grad_(), leaf).backward()
    assert leaf.grad is None


@every_soft_loss
def test_ignored_voxels_do_not_count(name: str) -> None:
    logits, soft = soft_batch()
    ours, keep = some_ignored(soft)
    value, gradient = value_and_gradient(build(name), logits, ours)
    away = (~keep).unsqueeze(1).expand_as(logits)
    assert (gradient[away] == 0).all()
    assert gradient.isfinite().all()
    elsewhere = torch.where(away, 5 * torch.randn_like(logits), logits)
    close(build(name)(elsewhere, ours), value)
    close(build(name, ignore_index=255)(logits, ours.masked_fill(away, 255)), value)
    assert build(name)(logits, soft) != value
    value, gradient = value_and_gradient(build(name), logits, torch.full_like(soft, -100))
    assert value == 0
    assert (gradient == 0).all()
    for nothing in (slice(0, 0), (..., slice(0, 0))):
        assert value_and_gradient(build(name), logits[nothing], soft[nothing])[0] == 0


@every_soft_loss
def test_half_precision_is_computed_in_float32(name: str) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        logits, soft = soft_batch(dtype=torch.float32)
        logits, soft = logits.to(dtype), some_ignored(soft.to(dtype))[0]
        expected = value_and_gradient(build(name), logits.float(), soft.float())
        with torch.autocast("cpu", dtype=dtype):
            value, gradient = value_and_gradient(build(name), logits, soft)
        assert value.dtype == torch.float32
        close(value, expected[0])
        close(gradient.float(), expected[1], rtol=1e-2, atol=1e-3)


@every_soft_loss
def test_the_host_never_waits_for_a_value(name: str) -> None:
    logits, soft = (each.to("meta") for each in soft_batch(dtype=torch.float32))
    build(name)(logits.requires_grad_(), soft).backward()
    with pytest.raises(RuntimeError, match="meta tensor"):
        build(name, validate=True)(logits, soft)


@every_soft_loss
def test_gradcheck(name: str) -> None:
    loss = build(name, **({"negative_weight": 0.0} if name.startswith("acls") else {}))
    logits, soft = soft_batch((2, 3))
    soft[0, :, 0, 1] = -100
    assert torch.autograd.gradcheck(lambda z: loss(z, soft), logits.requires_grad_())


@pytest.mark.parametrize("name", ["ce", "ls_weighted", "brier", "ce_dice", "ace_soft", "nacl"])
def test_compiles_to_one_graph_with_the_same_value(name: str) -> None:
    logits, soft = soft_batch(dtype=torch.float32)
    soft, _ = some_ignored(soft)
    expected = value_and_gradient(build(name), logits, soft)
    torch.compiler.reset()
    compiled = torch.compile(build(name), fullgraph=True, backend="aot_eager", dynamic=False)
    close(value_and_gradient(compiled, logits, soft), expected)


# Values -----------------------------------------------------------------------------------------


def plain_dice(p: Tensor, q: Tensor) -> Tensor:
    """Wang et al.'s first semimetric, by its L1 norms."""
    norms = (q.flatten(2).sum(2), p.flatten(2).sum(2), (p - q).abs().flatten(2).sum(2))
    both = (norms[0] + norms[1] - norms[2]) / 2
    return (1 - (2 * both + 1e-5) / (norms[0] + norms[1] + 1e-5)).mean()


def plain_smoothing(p: Tensor, q: Tensor) -> Tensor:
    return -((0.9 * q + 0.1 / 4) * p.log()).sum(1).mean()


def plain_weighted(p: Tensor, q: Tensor) -> Tensor:
    w = torch.tensor([1.0, 2.0, 0.5, 0.0], dtype=q.dtype).view(1, 4, 1, 1)
    return -(w * q * p.log()).sum() / (w * q).sum()


PLAIN = {
    "ce": (CrossEntropyLoss(), lambda p, q: -(q * p.log()).sum(1).mean()),
    "label smoothing": (CrossEntropyLoss(0.1), plain_smoothing),
    "weights": (CrossEntropyLoss(weight=[1.0, 2.0, 0.5, 0.0]), plain_weighted),
    "brier": (BrierLoss(), lambda p, q: (p - q).square().sum(1).mean()),
    "dice": (DiceLoss(), plain_dice),
    "dice, squared": (
        DiceLoss(squared=True, smooth_nr=0.0, smooth_dr=1e-9),
        lambda p, q: ((p - q).square().sum((2, 3)) / (p**2 + q**2).sum((2, 3))).mean(),
    ),
    "ace": (
        BinnedCalibrationLoss(n_bins=1),
        lambda p, q: (p.mean((2, 3)) - q.mean((2, 3))).abs().mean(),
    ),
    "mdca": (
        ClasswiseMeanCalibrationLoss(base=BrierLoss()),
        lambda p, q: (p - q).square().sum(1).mean() + (p - q).mean((0, 2, 3)).abs().mean(),
    ),
}


@pytest.mark.parametrize("case", PLAIN)
def test_value_and_gradient_of_the_plain_formula(case: str) -> None:
    loss, formula = PLAIN[case]
    logits, soft = soft_batch()
    expected = value_and_gradient(lambda z, q: formula(z.softmax(1), q), logits, soft)
    close(value_and_gradient(loss, logits, soft), expected)


def test_values_by_hand() -> None:
    q, p = torch.tensor([[0.75, 0.25]]), torch.tensor([[0.5, 0.5]])
    logits = p.log()
    assert CrossEntropyLoss()(logits, q).item() == pytest.approx(0.693147)
    assert BrierLoss()(logits, q).item() == pytest.approx(2 * 0.25**2)
    dice = DiceLoss(smooth_nr=0.0)(logits, q).item()
    assert dice == pytest.approx(((1 - 1 / 1.25) + (1 - 0.5 / 0.75)) / 2, abs=1e-4)
    assert soft_dice_loss(p, q).item() == pytest.approx(dice, abs=1e-4)


@pytest.mark.parametrize("name", ["ce", "ls", "svls"])
def test_the_mean_label_of_readers_gives_their_mean_loss(name: str) -> None:
    """Where the loss is linear in the label."""
    logits, first = batch(name)
    readers = [first, first.flip(0), torch.randint(4, first.shape)]
    for labels in readers:
        labels[0, 0, :3] = -100
    soft = torch.stack([one_hot(labels) for labels in readers]).mean(dim=0)
    each = torch.stack([build(name)(logits, labels) for labels in readers])
    close(build(name)(logits, soft), each.mean())


@pytest.mark.parametrize("space", [(), (6,), (5, 4), (3, 4, 5)])
@pytest.mark.parametrize("border", ["replicate", "background", "monai"])
@pytest.mark.parametrize(
    ("kernel", "size"), [("mean", 1), ("mean", 3), ("mean", 7), ("gaussian", 5)]
)
def test_neighborhoods_of_readers_average(
    space: tuple[int, ...], border: str, kernel: str, size: int
) -> None:
    readers = torch.randint(3, (4, 2, *space))
    gone = torch.rand(readers[0].shape) < 0.2
    readers = readers.masked_fill(gone, -100)
    how = {"kernel": kernel, "kernel_size": size, "border": border, "dtype": torch.float64}
    each = torch.stack([neighbor_proportions(labels, 3, **how) for labels in readers])
    soft = torch.stack([one_hot(labels, 3) for labels in readers]).mean(dim=0)
    before = soft.clone()
    close(neighbor_proportions(soft, 3, **how), each.mean(dim=0))
    assert torch.equal(soft, before)


@pytest.mark.parametrize(
    "loss",
    [CrossEntropyLoss(), BrierLoss(), DiceLoss(), DiceLoss(squared=True), DiceCrossEntropyLoss()],
    ids=["ce", "brier", "dice", "dice, squared", "ce_dice"],
)
def test_the_soft_label_is_the_optimum(loss: Loss) -> None:
    logits, soft = soft_batch((2, 3))
    logits, soft = torch.randn_like(logits).requires_grad_(), 0.8 * soft + 0.05
    optimizer = torch.optim.Adam([logits], lr=0.1)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.995)
    for _ in range(600):
        optimizer.zero_grad()
        loss(logits, soft).backward()
        optimizer.step()
        decay.step()
    close(logits.detach().softmax(1), soft, rtol=0, atol=0.005)


def test_the_product_in_place_of_the_minimum_would_favor_certainty() -> None:
    """Why Dice has another overlap for soft labels."""
    q = torch.tensor([0.6, 0.4]).view(1, 2, 1).expand(1, 2, 9)
    certain = torch.tensor([1.0, 0.0]).view(1, 2, 1).expand(1, 2, 9)

    def product(p: Tensor) -> Tensor:
        return (1 - 2 * (p * q).sum(2) / (p + q).sum(2))[:, 0].mean()

    assert product(certain) < product(q)
    assert soft_dice_loss(q, q).item() == pytest.approx(0, abs=1e-5)
    assert soft_dice_loss(certain, q) > 0.2


# Who takes them ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(HARD))
def test_other_losses_refuse(name: str) -> None:
    C = classes(name)
    logits = torch.randn(2, C, 4, 5)
    with pytest.raises(
        ValueError,
        match=r"Loss.* must get integer labels.*float32 of.*\(2, \d, 4, 5\).*column 'soft'",
    ):
        build(name)(logits, torch.full_like(logits, 1 / C))


def test_regions_need_the_labels_of_neighbors() -> None:
    logits, soft = soft_batch()
    assert build("cals")(logits, soft).isfinite()
    with pytest.raises(ValueError, match=r"Loss with these settings must get integer labels"):
        build("cals_regions")(logits, soft)


def test_the_table_says_which_take_them() -> None:
    entries = loss_entries(CONFIGS["ce"].parent)
    assert {entry.name for entry in entries if entry.soft} == set(CONFIGS) - HARD


def test_parts_and_bases_are_asked_on_their_own() -> None:
    logits, soft = soft_batch()
    for name, other in (("FocalLoss", FocalLoss()), ("CrossEntropyLoss", nn.CrossEntropyLoss())):
        parts = CompoundLoss({"dice": (1.0, DiceLoss()), "other": (1.0, other)})
        for loss in (parts, MarginLoss(base=other), MarginLoss(base=parts)):
            with pytest.raises(ValueError, match=rf"{name} must get integer labels"):
                loss(logits, soft)
    loss = MarginLoss(1.0, base=CompoundLoss({"dice": (0.5, DiceLoss()), "b": (2, BrierLoss())}))
    terms = loss.terms(logits, soft)
    close(terms["dice"], 0.5 * DiceLoss()(logits, soft))
    close(terms["b"], 2 * BrierLoss()(logits, soft))
    with pytest.raises(ValueError, match="DiceCELoss must get integer labels"):
        MarginLoss(base=DiceCELoss(to_onehot_y=True, softmax=True))(logits, soft)


class SizePenalty(PenaltyLoss):
    def penalty(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"size": self.voxel_mean(logits.square().mean(dim=1), target)}


class SoftSizePenalty(SizePenalty):
    soft_targets = True


def test_a_loss_of_a_user_takes_them_if_it_declares_so() -> None:
    logits, soft = soft_batch()
    ours, keep = some_ignored(soft)
    with pytest.raises(ValueError, match="SizePenalty must get integer labels"):
        SizePenalty()(logits, ours)
    size = SoftSizePenalty().terms(logits, ours)["size"]
    close(size, logits.square().mean(dim=1)[keep].mean())


@every_soft_loss
def test_voxel_means_are_those_of_integer_labels(name: str) -> None:
    """What ranks weight by their labeled voxels; see test_shares."""
    logits, soft = soft_batch(n=4)
    soft[:2, :, :2] = -100
    loss, halves = build(name), (slice(2), slice(2, 4))
    whole, parts = loss.terms(logits, soft), [loss.terms(logits[h], soft[h]) for h in halves]
    voxels = [int((soft[h] != -100).sum()) for h in halves]
    for term in whole.keys() & loss.voxel_mean_terms():
        mean = sum(n * part[term] for n, part in zip(voxels, parts, strict=True)) / sum(voxels)
        close(mean, whole[term])


# What is refused --------------------------------------------------------------------------------


def test_wrong_soft_labels() -> None:
    logits, soft = torch.zeros(2, 3, 4), torch.full((2, 3, 4), 1 / 3)
    for wrong in (-0.5, 1.5, float("nan"), -100.0):  # of one channel
        broken = soft.clone()
        broken[0, 1, 2] = wrong
        for loss in (CrossEntropyLoss(), DiceLoss(validate=True)):
            with pytest.raises(ValueError, match=r"must be probabilities in \[0, 1\].*got values"):
                loss(logits, broken)
    soft[1, :, 0] = 0.5
    with pytest.raises(ValueError, match=r"must sum to 1.*got a sum off by 0\.5"):
        CrossEntropyLoss(validate=True)(logits, soft)
    for label in (0, 1):
        with pytest.raises(ValueError, match=rf"ignore_index must not be 0 or 1.*got {label}"):
            CrossEntropyLoss(ignore_index=label)(logits, soft)


def test_what_looks_like_soft_labels() -> None:
    logits = torch.zeros(2, 3, 4)
    with pytest.raises(
        ValueError, match=r"\(2, 4\).*or the logits' shape.*got \(2, 3, 4\) in .*int"
    ):
        CrossEntropyLoss()(logits, torch.ones(2, 3, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"got \(2, 4, 4\) in torch.float32"):
        CrossEntropyLoss()(logits, torch.full((2, 4, 4), 0.25))
    with pytest.raises(ValueError, match=r"integral labels, got 0\.5.*have the logits' shape"):
        CrossEntropyLoss()(logits, torch.full((2, 1, 4), 0.5))
    labels = torch.tensor([[[0.0, 1.0, 2.0, -100.0]]]).expand(2, 1, 4)  # of a channel, integral
    close(CrossEntropyLoss()(logits, labels), torch.tensor(3.0).log())
