"""Losses of others: ignored voxels do not count, and what cannot be called is refused."""

import pytest
import torch
from monai import losses as monai
from torch import Tensor, nn

from mbls.losses import CompoundLoss, CrossEntropyLoss, MarginLoss, part_terms
from mbls.losses.base import check_parts
from mbls.losses.foreign import foreign_loss, plan_of

SETTINGS = {"softmax": True, "to_onehot_y": True}
LOSSES = {
    "tversky": (lambda: monai.TverskyLoss(**SETTINGS), "images"),
    "dice": (lambda: monai.DiceLoss(**SETTINGS), "images"),
    "dice of the foreground": (
        lambda: monai.DiceLoss(include_background=False, **SETTINGS), "images"),
    "dice of the batch": (lambda: monai.DiceLoss(batch=True, **SETTINGS), "pooled"),
    "dice, summed": (lambda: monai.DiceLoss(reduction="sum", **SETTINGS), "images"),
    "dice and ce": (lambda: monai.DiceCELoss(**SETTINGS), "images"),
    "generalized dice and focal": (lambda: monai.GeneralizedDiceFocalLoss(**SETTINGS), "images"),
    "focal": (lambda: monai.FocalLoss(to_onehot_y=True, use_softmax=True), "pooled"),
    "weighted dice and ce": (
        lambda: monai.DiceCELoss(weight=torch.tensor([0.1, 1, 1, 2]), **SETTINGS), "images"),
    "hausdorff": (lambda: monai.HausdorffDTLoss(**SETTINGS), "agreed"),
    "ce": (nn.CrossEntropyLoss, "itself"),
    "ce of its own index": (lambda: nn.CrossEntropyLoss(ignore_index=255), "itself"),
    "ce without background": (lambda: nn.CrossEntropyLoss(ignore_index=0), "itself"),
    "weighted ce": (lambda: nn.CrossEntropyLoss(torch.tensor([0.1, 1, 1, 2])), "itself"),
}  # fmt: skip
every_loss = pytest.mark.parametrize("name", LOSSES)
EXACT = [n for n, (_, way) in LOSSES.items() if way != "agreed" and "weighted dice" not in n]


def batch(space: tuple[int, ...] = (6, 7), n: int = 3) -> tuple[Tensor, Tensor]:
    target = torch.randint(4, (n, *space))
    return torch.randn(n, 4, *space), target


def value_and_gradient(loss: nn.Module, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    value = foreign_loss(loss, leaf, target)
    value.backward()
    return value.detach(), leaf.grad


@every_loss
@pytest.mark.parametrize("dims", [2, 3])
def test_the_way_is_found_out(name: str, dims: int) -> None:
    make, way = LOSSES[name]
    assert plan_of(make(), 4, dims).way == way


@every_loss
@pytest.mark.parametrize("space", [(6, 7), (4, 5, 6)], ids=["2d", "3d"])
def test_ignored_voxels_do_not_count(name: str, space: tuple[int, ...]) -> None:
    loss = LOSSES[name][0]()
    logits, target = batch(space)
    target[0, :2] = target[1] = -100  # an image of which nothing is labeled among them
    value, gradient = value_and_gradient(loss, logits, target)
    away = (target == -100).unsqueeze(1).expand_as(logits)
    assert value.isfinite()
    assert (gradient[away] == 0).all()
    assert gradient[~away].abs().sum() > 0
    elsewhere = torch.where(away, 5 * torch.randn_like(logits), logits)
    torch.testing.assert_close(foreign_loss(loss, elsewhere, target), value)


@pytest.mark.parametrize("name", EXACT)
def test_the_value_is_that_of_the_labeled_voxels(name: str) -> None:
    """Of images with the same number of labeled voxels it is known: they make a batch."""
    make, _ = LOSSES[name]
    logits, target = batch()
    padded, labels = torch.randn(3, 4, 9, 8), torch.full((3, 9, 8), -100)
    padded[:, :, 2:8, 1:], labels[:, 2:8, 1:] = logits, target
    channel = plan_of(make(), 4, 2).channel
    whole = make()(logits, target.unsqueeze(1) if channel else target)
    assert foreign_loss(make(), padded, labels).item() == pytest.approx(whole.item(), rel=1e-5)
    assert foreign_loss(make(), logits, target) == whole


@every_loss
@pytest.mark.parametrize("wrap", ["alone", "part", "base"])
def test_a_batch_without_labels_is_a_zero_that_backpropagates(name: str, wrap: str) -> None:
    loss = LOSSES[name][0]()
    if wrap != "alone" and getattr(loss, "ignore_index", -100) == -100:
        loss = CompoundLoss({"it": (2.0, loss)}) if wrap == "part" else MarginLoss(base=loss)
    leaf, target = torch.randn(2, 4, 5, 6, requires_grad=True), torch.full((2, 5, 6), -100)
    value = sum(part_terms(loss, leaf, target).values())
    value.backward()
    assert value == 0
    assert (leaf.grad == 0).all()


def test_a_penalty_of_another_ignore_index_hands_it_on() -> None:
    logits, target = batch()
    target[0, :3] = -100
    ours = MarginLoss(base=monai.DiceLoss(**SETTINGS)).terms(logits, target)
    theirs = MarginLoss(base=monai.DiceLoss(**SETTINGS), ignore_index=255)
    terms = theirs.terms(logits, target.masked_fill(target < 0, 255))
    assert terms["base"] == ours["base"]


def test_scores_without_space() -> None:
    """A classifier's rows are its voxels."""
    logits, target = torch.randn(8, 4), torch.randint(4, (8,))
    focal = monai.FocalLoss(to_onehot_y=True, use_softmax=True)
    expected = focal(logits[2:], target[2:].unsqueeze(1))
    target[:2] = -100
    assert foreign_loss(focal, logits, target) == expected


def test_a_loss_that_cannot_leave_voxels_out_is_told_at_the_first_that_it_meets() -> None:
    loss = monai.NACLLoss(classes=4, dim=2)
    logits, target = batch()
    assert foreign_loss(loss, logits, target) == loss(logits, target)
    target[0, 0, 0] = -100
    with pytest.raises(ValueError, match="NACLLoss looks at neighboring voxels"):
        foreign_loss(loss, logits, target)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.BCEWithLogitsLoss(), "BCEWithLogitsLoss must take raw scores .* and labels"),
        (nn.MSELoss(), "MSELoss must take raw scores"),
        (monai.DiceLoss(softmax=True), "DiceLoss must take .*to_onehot_y: true"),
        (monai.FocalLoss(), "FocalLoss must take .*to_onehot_y: true"),
        (nn.CrossEntropyLoss(reduction="none"), r"return a scalar, got \(2, 12, 13\)"),
        (nn.CrossEntropyLoss(torch.ones(3)), "CrossEntropyLoss must take .*weight"),
    ],
)
@pytest.mark.parametrize("wrap", ["alone", "part", "base"])
def test_what_cannot_be_called_is_refused_before_training(
    loss: nn.Module, message: str, wrap: str
) -> None:
    wrapped = {
        "alone": lambda: loss,
        "part": lambda: CompoundLoss({"ce": (1.0, CrossEntropyLoss()), "it": (1.0, loss)}),
        "base": lambda: MarginLoss(base=loss),
    }[wrap]()
    with pytest.raises(ValueError, match=message):
        check_parts(wrapped, 4, 2)


def test_no_number_of_classes_lets_a_broadcast_pass() -> None:
    for num_classes in (2, 3, 24):
        for dims in (0, 1, 2, 3):
            with pytest.raises(ValueError, match="MSELoss must take"):
                check_parts(nn.MSELoss(), num_classes, dims)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (monai.HausdorffDTLoss(**SETTINGS), "HausdorffDTLoss looks at neighboring voxels"),
        (monai.DiceLoss(to_onehot_y=True), "DiceLoss takes the network's raw scores for prob"),
    ],
)
def test_what_is_doubtful_is_told(loss: nn.Module, message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        check_parts(loss, 4, 2)


class Counting(nn.CrossEntropyLoss):
    """Keeps the number of its calls, and draws a random number at each."""

    calls = 0

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        torch.rand(1)
        return super().forward(logits, target)


def test_the_trial_leaves_no_trace() -> None:
    loss, before = Counting(), torch.get_rng_state()
    plan_of(loss, 4, 2)
    assert loss.calls == 0
    assert torch.equal(before, torch.get_rng_state())


def test_a_loss_with_a_broken_score_is_not_finite() -> None:
    logits, target = batch()
    target[1] = -100
    target[0, 3, 3], logits[0, 0, 3, 3] = 1, float("nan")
    for make, _ in LOSSES.values():
        assert not foreign_loss(make(), logits, target).isfinite()
