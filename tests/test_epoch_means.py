"""Means resume from a checkpoint, also on another number of ranks."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mbls.loggers.epoch_means import EpochMeans


def rank(number: int, world: int) -> Any:
    strategy = SimpleNamespace(root_device=torch.device("cpu"), reduce=lambda sums, reduce_op: sums)
    return SimpleNamespace(
        world_size=world, global_rank=number, is_global_zero=number == 0, strategy=strategy
    )


STATE = {  # the sums of loss and samples on two ranks
    "names": ["loss"],
    "sums": torch.tensor([[3.0, 2.0], [5.0, 6.0]], dtype=torch.float64),
}


@pytest.mark.parametrize("world", [1, 2, 3])
def test_no_sample_is_lost_or_counted_twice(world: int) -> None:
    parts = []
    for number in range(world):
        means = EpochMeans()
        means.load(STATE, rank(number, world))
        parts.append(means._sums)
    assert torch.stack(parts).sum(dim=0).tolist() == [8.0, 8.0]
    assert parts[-1].tolist() == {1: [8.0, 8.0], 2: [5.0, 6.0], 3: [0.0, 0.0]}[world]


def test_epoch_mean_is_resumed() -> None:
    means = EpochMeans()
    means.load(STATE, rank(0, 1))
    means.add({"loss": torch.tensor(4.0)}, samples=2)
    assert means.take(rank(0, 1))["loss"].item() == pytest.approx((8 + 4 * 2) / 10)


def test_exchanged_means_are_current() -> None:
    means, here = EpochMeans(), rank(0, 1)
    for n in (1, 2):
        means.add({"loss": torch.tensor(4.0)}, samples=2)
        assert means.share(here) is means.share(here)  # nothing is exchanged in between
        assert means.state(here)["sums"].tolist() == [[8.0 * n, 2.0 * n]]
    means.take(here)
    assert means.state(here)["sums"].tolist() == [[0.0]]
    means.load({"names": ["loss"], "sums": torch.ones(1, 2)}, here)
    assert means.state(here)["sums"].tolist() == [[1.0, 1.0]]
