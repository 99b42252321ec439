"""Joins datasets to their samplers, for this process's rank."""

from typing import Any

from torch.utils.data import DataLoader

from datamodules.loading.datasets import (
    InputDataset,
    PatchDataset,
    SliceDataset,
    VolumeDataset,
    collate,
)
from datamodules.loading.prefetch import PrefetchLoader
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
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """Return the loader of this rank's share of each batch.

    Args:
        dataset: The training samples.
        batch_size: Samples in a batch over all ranks together.
        seed: Seed of the order.
        epoch: The epoch to begin with.
        start: See :class:`~datamodules.loading.samplers.TrainingSampler`.
        num_workers: Processes that load data; 0 prefetches in a thread of this one. What draws
            from global generators (a dataset's ``transform``) has no thread, but takes turns with
            the step.
        foreground: Least share of a batch that shows foreground.
        pin_memory: Whether batches go to a CUDA device.
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
    options = _options(num_workers, pin_memory)
    kind = PrefetchLoader if dataset.transform is None else DataLoader
    return kind(dataset, batch_sampler=sampler, collate_fn=_as_it_is, **options)


def evaluation_loader(
    dataset: VolumeDataset | InputDataset, *, num_workers: int, pin_memory: bool = False
) -> DataLoader[Any]:
    """Return the loader of this rank's volumes, one a batch; arguments are the training's.

    Without workers a thread prefetches the next volume while one is segmented and scored.
    """
    rank, world = rank_and_world()
    sampler = EvaluationSampler(len(dataset), rank=rank, world=world)
    options = _options(num_workers, pin_memory)
    return PrefetchLoader(dataset, sampler=sampler, batch_size=1, collate_fn=collate, **options)


def _as_it_is(batch: Any) -> Any:
    """Return what a training dataset made: a batch already."""
    return batch


def _options(num_workers: int, pin_memory: bool) -> dict[str, Any]:
    return {
        "num_workers": num_workers,
        "persistent_workers": num_workers > 0,
        "pin_memory": pin_memory,
    }
