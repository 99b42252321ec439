"""Metrics of classes refuse soft labels and name the ways out."""

import pytest
import torch

from mbls.losses import soft_dice_loss
from mbls.metrics import (
    DiceScore,
    ExpectedCalibrationError,
    HausdorffDistance95,
    NormalizedSurfaceDice,
)


@pytest.mark.parametrize(
    "metric",
    [DiceScore, ExpectedCalibrationError, HausdorffDistance95, NormalizedSurfaceDice],
)
def test_soft_labels_are_refused(metric: type) -> None:
    probs = torch.rand(1, 3, 4, 5).softmax(1)
    rule = r"one reader, \(1, 4, 5\).*got soft labels \(1, 3, 4, 5\).*posterior.*soft_dice_loss"
    with pytest.raises(ValueError, match=rule):
        metric(3).update(probs, probs, spacing=torch.ones(1, 2))
    assert 1 - soft_dice_loss(probs, probs) == pytest.approx(1, abs=1e-5)
