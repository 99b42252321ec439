"""Dice on paper, for absent structures, unions and cases."""

import numpy as np
import pytest
import torch

from mbls.metrics import DiceScore, dice_scores


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


def test_refuses_labels_that_are_no_class_and_missing_index():
    dice = DiceScore(3, num_cases=1)
    probs = one_hot(torch.zeros(1, 5, dtype=torch.long), 3)
    with pytest.raises(ValueError, match="got 5 voxels with something else"):
        dice.update(probs, torch.full((1, 5), 7), index=torch.tensor([0]))
    with pytest.raises(ValueError, match="pass index"):
        dice.update(probs, torch.zeros(1, 5))
    with pytest.raises(ValueError, match="num_cases must be at least 1"):
        DiceScore(3, num_cases=0)
    with pytest.raises(ValueError, match="'nan' or 'one'"):
        dice_scores(np.zeros((1, 3)), absent="zero")
