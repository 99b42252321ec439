"""Pairs of classes, counted in pieces: those of argmax, to the voxel."""

import pytest
import torch

from mbls.metrics import DiceScore
from mbls.metrics._kernel.confusion import confusion


def plain(scores: torch.Tensor, target: torch.Tensor, ignore: int) -> torch.Tensor:
    table = torch.zeros(len(scores), len(scores), dtype=torch.int64)
    chosen, keep = scores.argmax(0), target != ignore
    for row in range(len(scores)):
        for column in range(len(scores)):
            table[row, column] = ((chosen == row) & (target == column) & keep).sum()
    return table


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7,), (300, 131), (5, 6, 7)])
@pytest.mark.parametrize("ignore", [-100, 255])
def test_confusion_equals_the_table_of_argmax(
    dtype: torch.dtype, shape: tuple[int, ...], ignore: int
) -> None:
    scores = torch.randn(5, *shape).mul(2).round().div(2).to(dtype)  # many ties
    target = torch.randint(5, shape)
    target[torch.rand(shape) < 0.2] = ignore
    found = confusion(scores, target, ignore)
    assert found is not None
    assert torch.equal(found, plain(scores.float(), target, ignore))
    flipped = confusion(scores.transpose(0, -1).contiguous().transpose(0, -1), target, ignore)
    assert torch.equal(flipped, found)


def test_threads_do_not_matter() -> None:
    scores, target = torch.randn(4, 300, 400), torch.randint(4, (300, 400))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found = confusion(scores, target, -100)
        target[0, 0] = 7
        assert confusion(scores, target, -100) is None
    finally:
        torch.set_num_threads(before)
    target[0, 0] = 0
    assert found is not None
    assert found.sum() == target.numel()
    target_one = confusion(scores, target, -100)
    assert target_one is not None
    assert (found - target_one).abs().sum() <= 2  # the label that was changed


def test_close_scores_in_float64_are_separated() -> None:
    scores = torch.tensor([[0.5], [0.5 + 1e-15], [0.0]], dtype=torch.float64)
    table = confusion(scores, torch.tensor([2]), -100)
    assert table is not None
    assert table[1, 2] == 1


@pytest.mark.parametrize("label", [-1, 3, 99, 1 << 40])
def test_a_label_that_is_no_class_is_refused(label: int) -> None:
    scores, target = torch.rand(3, 40), torch.zeros(40, dtype=torch.int64)
    target[7] = label
    assert confusion(scores, target, -100) is None
    metric = DiceScore(3, num_cases=1)
    with pytest.raises(ValueError, match="target must be classes"):
        metric.update(scores[None], target[None], index=torch.zeros(1))


def test_nan_is_refused_and_infinite_logits_are_not() -> None:
    scores, target = torch.rand(3, 40), torch.ones(40, dtype=torch.int64)
    scores[:2, 5] = -torch.inf
    scores[1, 6] = torch.inf
    metric = DiceScore(3, num_cases=1)
    metric.update(scores[None], target[None], index=torch.zeros(1))
    table = plain(scores, target, -100)
    assert metric.counts[0, 1].tolist() == [table[1, 1], table[1].sum(), table[:, 1].sum()]
    scores[2, 8] = torch.nan
    with pytest.raises(ValueError, match="probs must not be NaN"):
        metric.update(scores[None], target[None], index=torch.zeros(1))
