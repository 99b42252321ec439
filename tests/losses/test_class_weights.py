"""Weights of classes: PyTorch's weighted mean, from YAML, with their number checked."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mbls.losses import CrossEntropyLoss, DiceCrossEntropyLoss, DiceLoss, FocalLoss, MarginLoss
from tests.losses.every_loss import WEIGHT, WEIGHTED, batch, build

weight = torch.tensor(WEIGHT, dtype=torch.float64)


def test_cross_entropy_is_torchs() -> None:
    logits, target = batch("ce")
    target[0, :2] = -100
    for smoothing in (0.0, 0.1):
        theirs = F.cross_entropy(logits, target, weight, label_smoothing=smoothing)
        ours = CrossEntropyLoss(smoothing, weight=WEIGHT)(logits, target)
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(CrossEntropyLoss(0.1, weight=WEIGHT)(logits, target), theirs)
    below = MarginLoss(1.0, base=CrossEntropyLoss(weight=WEIGHT)).terms(logits, target)
    torch.testing.assert_close(below["ce"], F.cross_entropy(logits, target, weight))
    plain = MarginLoss(1.0).terms(logits, target)
    torch.testing.assert_close(below["margin"], plain["margin"])
    assert below["ce"] != plain["ce"]


def test_focal_without_focus_is_cross_entropy() -> None:
    logits, target = batch("focal")
    target[0, :2] = -100
    value = FocalLoss(0.0, weight=WEIGHT)(logits, target)
    torch.testing.assert_close(value, F.cross_entropy(logits, target, weight))


def test_focal_on_paper() -> None:
    """Uniform over two classes: each voxel costs 0.25 log 2 at gamma 2, whatever the weights."""
    target = torch.tensor([0, 1, 1])
    value = FocalLoss(2.0, weight=[0.3, 2.0])(torch.zeros(3, 2), target)
    torch.testing.assert_close(value, 0.25 * torch.tensor(2.0).log())


def test_dice_is_the_weighted_mean_of_its_classes() -> None:
    logits, target = batch("dice", n=1)
    each = [
        DiceLoss(weight=[float(k == one) for k in range(4)])(logits, target) for one in range(4)
    ]
    value = DiceLoss(weight=WEIGHT)(logits, target)
    torch.testing.assert_close(value, (torch.stack(each) * weight).sum() / weight.sum())
    foreground = DiceLoss(False, weight=WEIGHT)(logits, target)
    expected = (torch.stack(each) * weight)[1:].sum() / weight[1:].sum()
    torch.testing.assert_close(foreground, expected)
    terms = DiceCrossEntropyLoss(weight=WEIGHT).terms(logits, target)
    torch.testing.assert_close(terms["dice"], value)
    torch.testing.assert_close(terms["ce"], F.cross_entropy(logits, target, weight))


@pytest.mark.parametrize("name", sorted(WEIGHTED))
def test_equal_weights_change_nothing(name: str) -> None:
    logits, target = batch(name)
    target[0, :2] = -100
    equal, none = ([2.0] * 4, None)
    torch.testing.assert_close(
        build(name, weight=equal)(logits, target), build(name, weight=none)(logits, target)
    )
    assert build(name)(logits, target) != build(name, weight=none)(logits, target)


@pytest.mark.parametrize("name", sorted(WEIGHTED))
def test_their_number_is_checked(name: str) -> None:
    with pytest.raises(ValueError, match=r"one number for each of 3 classes.* got 4"):
        build(name).bind(3)
    with pytest.raises(ValueError, match=r"one number for each of 3 classes.* got 4"):
        build(name)(torch.zeros(1, 3, 2), torch.zeros(1, 2))


@pytest.mark.parametrize("wrong", [[1.0, -1.0], [0.0, 0.0], [1.0, float("nan")]])
def test_impossible_weights_are_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="weight must be finite numbers >= 0"):
        CrossEntropyLoss(weight=wrong)
    with pytest.raises(ValueError, match="without the background all others"):
        DiceLoss(False, weight=[1.0, 0.0])


def test_voxels_that_weigh_nothing_are_a_zero_that_backpropagates() -> None:
    """A patch of background alone, the background weighing 0: PyTorch's is not a number."""
    logits, target = torch.randn(1, 2, 3, requires_grad=True), torch.zeros(1, 3)
    for loss in (CrossEntropyLoss(weight=[0.0, 1.0]), FocalLoss(weight=[0.0, 1.0])):
        value = loss(logits, target)
        value.backward()
        assert value == 0
    assert (logits.grad == 0).all()


def test_weights_follow_the_module_and_lie_in_no_checkpoint() -> None:
    loss = nn.ModuleDict({"loss": CrossEntropyLoss(weight=WEIGHT)}).to("meta")
    assert loss["loss"].weight.device.type == "meta"
    assert not loss.state_dict()
