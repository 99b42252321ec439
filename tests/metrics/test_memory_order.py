"""Volumes that are transposed views, as files are read, are counted as they lie in memory."""

import itertools

import pytest
import torch

from mbls.evaluation.scoring import TestMetrics
from mbls.metrics._kernel import pieces
from mbls.metrics._kernel.pieces import memory_order

SHAPE = (6, 5, 7)


def stored(tensor: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    """The same tensor whose axes lie in memory in another order."""
    back = [order.index(axis) for axis in range(tensor.ndim)]
    return tensor.permute(order).contiguous().permute(back)


@pytest.mark.parametrize("order", [(0, 3, 2, 1), (3, 2, 1, 0), (1, 2, 3, 0), (0, 2, 3, 1)])
def test_all_counts_are_those_of_a_contiguous_volume(
    order: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    probs = torch.randn(3, *SHAPE).mul(3).softmax(0)
    label = torch.randint(-1, 3, SHAPE)
    label[label < 0] = -100
    for length in (1 << 16, 20, 4):  # a volume, some rows, parts of a row
        monkeypatch.setattr(pieces, "_length", lambda _, length=length: length)
        found = []
        for volume in (probs, stored(probs, order)):
            metrics = TestMetrics(3, 1, unions={"both": (1, 2)})
            spacing = torch.tensor([[1.5, 1.25, 3.0]])
            batch = {"label": label[None], "index": torch.tensor([0]), "spacing": spacing}
            metrics.update(volume[None], batch)
            found.append({f"{k}.{n}": s for k, m in enumerate(metrics.metrics())
                          for n, s in m.metric_state.items()})  # fmt: skip
        for name, states in found[0].items():
            assert torch.equal(states, found[1][name]), name


@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3))))
def test_pieces_of_a_view_are_as_large_as_those_of_a_contiguous_volume(
    order: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "_length", lambda _: 60)
    volume = stored(torch.rand(2, 8, 9, 10), (0, *order))
    assert memory_order(volume) == list(order)
    found = list(pieces.pieces([volume[None], torch.zeros(1, 1, 8, 9, 10)], 2))
    assert sum(first.shape[1] for first, _ in found) == 720
    assert all(first.shape[1] == second.shape[1] <= 60 for first, second in found)
    assert len(found) <= 24  # rows of 8 to 10 voxels are joined
    values = torch.cat([first for first, _ in found], 1)
    assert torch.equal(values[0].sort().values, volume[0].flatten().sort().values)
