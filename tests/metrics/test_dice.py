"""Dice on paper, for absent structures, unions and cases."""

import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection

from mbls.metrics import DiceScore, ExpectedCalibrationError, HausdorffDistance95, dice_scores


def one_hot(labels, classes):
    return torch.nn.functional.one_hot(labels, classes).movedim(-1, 1).float()


def test_on_paper_with_a_union():
    target = torch.tensor([[0, 0, 1, 1, 1, 2]])
    predicted = torch.tensor([[0, 1, 1, 1, 2, 2]])
    dice = DiceScore(3, unions={"both": (1, 2)}, num_cases=1)
    dice.update(one_hot(predicted, 3), target, index=torch.tensor([0]))
    assert dice.counts[0].tolist() == [[1, 1, 2], [2, 3, 3], [1, 2, 1], [4, 5, 4]]
    np.testing.assert_allclose(dice.compute()[0], [2 / 3, 2 / 3, 2 / 3, 8 / 9])


def test_absent_structures():
    target = torch.tensor([[0, 0, 1]])
    predicted = torch.tensor([[0, 2, 0]])  # 1 missed, 2 invented, 3 rightly absent
    dice = DiceScore(4, num_cases=1)
    dice.update(one_hot(predicted, 4), target, index=torch.tensor([0]))
    scores = dice.compute()[0]
    assert scores[1] == 0
    assert scores[2:].isnan().all()
    published = dice_scores(dice.counts.numpy(), absent="one")
    assert published[0].tolist() == [0.5, 0, 1, 1]


def test_ignored_voxels_and_case_order():
    target = torch.randint(3, (4, 6, 6))
    predicted = torch.randint(3, (4, 6, 6))
    target[:, :2] = -100
    cut = DiceScore(3, num_cases=4)
    cut.update(one_hot(predicted[:, 2:], 3), target[:, 2:], index=torch.arange(4))
    one_by_one = DiceScore(3, num_cases=4)
    for case in (2, 0, 3, 1):
        index = torch.tensor([case])
        one_by_one.update(one_hot(predicted[[case]], 3), target[[case], None], index=index)
    assert torch.equal(cut.counts, one_by_one.counts)


def test_without_a_number_of_cases_the_mean_over_classes_is_one_number():
    target = torch.randint(3, (4, 9, 8))
    predicted = torch.randint(3, (4, 9, 8))
    target[2] = 0  # healthy: left out
    target[1][target[1] == 2] = 0
    probs = one_hot(predicted, 3)
    apart, mean = DiceScore(3, num_cases=4), DiceScore(3)
    apart.update(probs, target, index=torch.arange(4))
    for n in (3, 0, 2, 1):
        mean.update(probs[[n]], target[[n]])
    assert mean.number.tolist() == [4, 3, 2]
    expected = apart.compute()[:, 1:].nanmean(0).mean()
    torch.testing.assert_close(mean.compute(), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(mean.per_class(), apart.per_class(), rtol=0, atol=1e-9)
    other = DiceScore(3)
    other.update(probs, target)
    assert torch.equal(other.compute(), mean.compute())
    mean.reset()
    mean.update(probs[[2]], target[[2]])
    assert mean.compute().isnan()


def test_a_collection_takes_it_with_calibration_and_every_value_can_be_logged():
    probs, target = torch.rand(3, 4, 8, 8).softmax(1), torch.randint(4, (3, 8, 8))
    metrics = MetricCollection(
        {
            "dice": DiceScore(4),
            "both": DiceScore(4, unions={"both": (1, 2)}),
            "hd95": HausdorffDistance95(4),
            "ece": ExpectedCalibrationError(4),
        }
    )
    spacing = torch.ones(1, 2)
    for n in range(3):
        metrics(probs[[n]], target[[n]], spacing=spacing, index=torch.tensor([n]))
    found = metrics.compute()
    assert all(value.ndim == 0 and value.isfinite() for value in found.values())
    alone = DiceScore(4)
    alone.update(probs, target)
    assert found["dice"] == found["both"] == alone.compute()


def test_predicted_classes_are_taken_like_their_one_hot_scores():
    target, predicted = torch.randint(3, (2, 3, 6, 6))
    target[0, :2] = -100
    for build in (DiceScore, HausdorffDistance95):
        scores, classes = build(3), build(3)
        spacing = torch.ones(3, 2)
        scores.update(one_hot(predicted, 3), target, spacing=spacing)
        for dtype in (torch.uint8, torch.int64):
            classes.reset()
            classes.update(predicted.to(dtype), target[:, None], spacing=spacing)
            assert torch.equal(scores.total, classes.total)
        with pytest.raises(ValueError, match=r"probs must be classes 0\.\.2 .* from 0 to 9"):
            classes.update(predicted.where(predicted != 1, 9), target, spacing=spacing)
    with pytest.raises(TypeError, match=r"torch.int64 \(3, 6, 6\).*Calibration needs prob"):
        ExpectedCalibrationError(3).update(predicted, target)


def test_refuses_labels_that_are_no_class_and_missing_index():
    dice = DiceScore(3, num_cases=1)
    probs = one_hot(torch.zeros(1, 5, dtype=torch.long), 3)
    with pytest.raises(ValueError, match=r"labels from 7 to 7.*ignore_index=7"):
        dice.update(probs, torch.full((1, 5), 7), index=torch.tensor([0]))
    with pytest.raises(ValueError, match=r"pass the \(N,\) number .* or leave num_cases out"):
        dice.update(probs, torch.zeros(1, 5))
    with pytest.raises(ValueError, match="num_cases must be >= 1"):
        DiceScore(3, num_cases=0)
    with pytest.raises(ValueError, match="'nan' or 'one'"):
        dice_scores(np.zeros((1, 3)), absent="zero")
