"""Samplers whose order depends only on (seed, epoch, batch), not on the ranks."""

import math
from collections.abc import Iterator

import numpy as np
import torch.distributed as dist
from torch.utils.data import Sampler


def rank_and_world() -> tuple[int, int]:
    """Return this process's rank and the number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def epoch_order(size: int, *, seed: int, epoch: int) -> np.ndarray:
    """Return the order in which an epoch visits ``size`` samples, int64 ``(size,)``."""
    return np.random.default_rng([seed, epoch]).permutation(size)


def forced(position: int, share: float) -> bool:
    """Return True if the sample at ``position`` of a batch must show foreground.

    Any first ``n`` samples have ``ceil(n * share)`` that must, so they are spread over the ranks.
    """
    before, after = (math.ceil(round(n * share, 9)) for n in (position, position + 1))
    return after > before


class TrainingSampler(Sampler[list[tuple[int, int, bool]]]):
    """A batch sampler that yields lists of ``(epoch, index, forced)``.

    Batch ``b`` of an epoch is the ``b``-th run of ``batch_size`` samples in the epoch's order, and
    each rank takes its share of that run: the ranks together see what one rank would see alone.
    The incomplete batch at the end of an epoch is left out; the next epoch has another order.
    The epoch goes to the dataset with each index, since workers that live on do not see the
    sampler's state.

    Args:
        size: Number of samples.
        batch_size: Samples in a batch over all ranks together.
        seed: Seed of the order.
        rank: This process's rank.
        world: Number of ranks.
        epoch: The epoch to begin with, until :meth:`set_epoch` is called.
        start: ``(epoch, batch)`` to resume from after an interruption: that epoch begins at that
            batch, every other epoch at its first. The length stays that of a whole epoch.
        foreground: Least share of each batch that must show foreground, marked ``forced``.

    Raises:
        ValueError: The batch cannot be shared among the ranks, or is larger than the data.
    """

    def __init__(
        self,
        size: int,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        epoch: int = 0,
        start: tuple[int, int] = (0, 0),
        foreground: float = 0.0,
    ) -> None:
        if batch_size < 1 or batch_size % world:
            raise ValueError(
                "batch_size counts the samples over all ranks: it must be a positive multiple of "
                f"the {world} ranks, got {batch_size}."
            )
        if batch_size > size:
            raise ValueError(
                f"batch_size must be at most the {size} training samples, got {batch_size}."
            )
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.world = rank, world
        self.epoch, self.start, self.foreground = epoch, start, foreground

    @property
    def sampler(self) -> "TrainingSampler":
        """Itself: Lightning calls ``set_epoch`` on a batch sampler's ``sampler``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int, bool]]]:
        epoch = self.epoch
        order = epoch_order(self.size, seed=self.seed, epoch=epoch)
        share = self.batch_size // self.world
        first = self.start[1] if epoch == self.start[0] else 0
        places = range(self.rank * share, (self.rank + 1) * share)
        marks = [forced(place, self.foreground) for place in places]
        for batch in range(first, len(self)):
            begin = batch * self.batch_size + places.start
            indices = order[begin : begin + share].tolist()
            yield [(epoch, index, must) for index, must in zip(indices, marks, strict=True)]


class EvaluationSampler(Sampler[tuple[int, bool]]):
    """Yields ``(index, scored)``: each case is scored on one rank, and all ranks run equally long.

    Rank ``r`` of ``k`` takes the cases ``r, r + k, ...``. A rank that has one fewer than the first
    gets a case over again with ``scored=False``, so no rank is without batches and none waits.

    Args:
        size: Number of cases, at least 1.
        rank: This process's rank.
        world: Number of ranks.
    """

    def __init__(self, size: int, *, rank: int = 0, world: int = 1) -> None:
        if size < 1:
            raise ValueError(f"The number of cases to evaluate must be >= 1, got {size}.")
        self.size, self.rank, self.world = size, rank, world

    def __len__(self) -> int:
        return -(-self.size // self.world)

    def __iter__(self) -> Iterator[tuple[int, bool]]:
        for turn in range(len(self)):
            position = turn * self.world + self.rank
            yield position % self.size, position < self.size
