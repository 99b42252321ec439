"""Joins datasets to their samplers, for this process's rank."""

from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.loading.datasets import (
    InputDataset,
    PatchDataset,
    SliceDataset,
    VolumeDataset,
    collate,
)
from datamodules.loading.samplers import EvaluationSampler, TrainingSampler, rank_and_world


def training_loader(
    dataset: SliceDataset | PatchDataset,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    start: tuple[int, int],
    num_workers: int,
    foreground: float = 0.0,
) -> DataLoader[Any]:
    """Return the loader of this rank's share of each batch.

    Args:
        dataset: The training samples.
        batch_size: Samples in a batch over all ranks together.
        seed: Seed of the order.
        epoch: The epoch to begin with.
        start: See :class:`~datamodules.loading.samplers.TrainingSampler`.
        num_workers: Processes that load data; 0 loads in this one.
        foreground: Least share of a batch that shows foreground.
    """
    rank, world = rank_and_world()
    sampler = TrainingSampler(
        len(dataset),
        batch_size=batch_size,
        seed=seed,
        rank=rank,
        world=world,
        epoch=epoch,
        start=start,
        foreground=foreground,
    )
    return _loader(dataset, num_workers, batch_sampler=sampler, collate_fn=_as_it_is)


def evaluation_loader(
    dataset: VolumeDataset | InputDataset, *, num_workers: int
) -> DataLoader[Any]:
    """Return the loader of this rank's volumes, one a batch."""
    rank, world = rank_and_world()
    sampler = EvaluationSampler(len(dataset), rank=rank, world=world)
    return _loader(dataset, num_workers, sampler=sampler, batch_size=1, collate_fn=collate)


def _as_it_is(batch: dict[str, Any]) -> dict[str, Any]:
    """Return what a training dataset made: a batch already."""
    return batch


def _loader(dataset: Dataset[Any], num_workers: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        **options,
    )
