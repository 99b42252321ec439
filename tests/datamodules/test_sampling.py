"""The order of samples is a function of (seed, epoch, batch), for any number of ranks."""

from itertools import chain

import pytest

from datamodules.loading.samplers import EvaluationSampler, TrainingSampler, epoch_order


def batches(epoch: int = 0, **options) -> list[list[tuple[int, int, bool]]]:
    sampler = TrainingSampler(**{"size": 26, "batch_size": 6, "seed": 3} | options)
    sampler.set_epoch(epoch)
    assert len(sampler) == 4
    return list(sampler)


@pytest.mark.parametrize("world", [2, 3, 6])
@pytest.mark.parametrize("epoch", [0, 5])
def test_ranks_see_what_one_sees(world: int, epoch: int) -> None:
    ranks = [batches(epoch, rank=rank, world=world) for rank in range(world)]
    together = [[*chain(*shares)] for shares in zip(*ranks, strict=True)]
    assert together == batches(epoch)


def test_epochs_and_seeds_differ_and_repeat() -> None:
    assert batches(1) == batches(1)
    assert batches(1) != batches(2)
    assert batches(1) != batches(1, seed=4)
    visited = [index for batch in batches(1) for _, index, _ in batch]
    assert len(set(visited)) == 24
    assert {epoch for batch in batches(1) for epoch, *_ in batch} == {1}
    assert sorted(epoch_order(26, seed=3, epoch=1)) == list(range(26))


def test_start_in_the_middle_of_an_epoch() -> None:
    sampler = TrainingSampler(26, batch_size=6, seed=3, epoch=2, start=(2, 3))
    assert len(sampler) == 4
    assert list(sampler) == batches(2)[3:]
    sampler.sampler.set_epoch(3)
    assert list(sampler) == batches(3)


def test_bad_batch_sizes() -> None:
    with pytest.raises(ValueError, match="positive multiple of the 4 ranks, got 6"):
        batches(world=4)
    with pytest.raises(ValueError, match="positive multiple of the 1 ranks, got 0"):
        batches(batch_size=0)
    with pytest.raises(ValueError, match="at most the 5 training samples, got 6"):
        TrainingSampler(5, batch_size=6, seed=0)


@pytest.mark.parametrize("size", [1, 2, 5, 6])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_each_case_is_scored_once(size: int, world: int) -> None:
    samplers = [EvaluationSampler(size, rank=rank, world=world) for rank in range(world)]
    assert len({len(sampler) for sampler in samplers}) == 1
    visits = [list(sampler) for sampler in samplers]
    assert {len(visit) for visit in visits} == {len(samplers[0])}
    assert all(0 <= index < size for visit in visits for index, _ in visit)
    scored = sorted(index for visit in visits for index, counts in visit if counts)
    assert scored == list(range(size))


def test_nothing_to_evaluate() -> None:
    with pytest.raises(ValueError, match="cases to evaluate must be >= 1, got 0"):
        EvaluationSampler(0)
