"""A step's draws depend on the run's seed, the step and the rank, and on nothing else."""

from types import SimpleNamespace

import torch

from mbls.callbacks import StepSeed


def draw(seed: int, step: int, rank: int, device: str = "cpu") -> float:
    trainer = SimpleNamespace(
        fit_loop=SimpleNamespace(total_batch_idx=step),
        global_rank=rank,
        strategy=SimpleNamespace(root_device=torch.device(device)),
    )
    StepSeed(seed=seed).on_train_batch_start(trainer, None, None, 0)  # type: ignore[arg-type]
    return torch.rand(()).item()


def test_draws() -> None:
    settings = [(seed, step, rank) for seed in (0, 1) for step in (0, 1, 5) for rank in (0, 1)]
    first = [draw(*each) for each in settings]
    assert len(set(first)) == len(settings)
    assert [draw(*each) for each in settings] == first
    assert [draw(*each, device="meta") for each in settings] == first
