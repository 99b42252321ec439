"""Several processes: multipliers equal to those of one on the same cases, whatever the shards."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.multiprocessing import start_processes

from datamodules.loading.samplers import EvaluationSampler
from mbls.losses import AdaptiveLoss
from tests.losses.every_loss import build

pytestmark = pytest.mark.ddp

LOSSES = ("cals", "cals_p2", "cals_hr_tight", "crac", "adafocal")
CASES, EPOCHS = 5, 3
SHARES = ((2, CASES), (3, CASES), (3, 1))  # ranks and cases: fewer cases than ranks at last


def case(epoch: int, index: int) -> tuple[Tensor, Tensor]:
    """Cases of unlike sizes, some voxels ignored, as float16 as a network under autocast gives."""
    generator = torch.Generator().manual_seed(100 * epoch + index)
    space = (5 + index, 7, 3)
    target = torch.randint(4, (1, *space), generator=generator)
    logits = 4 * torch.randn(1, 4, *space, generator=generator)
    logits.scatter_add_(1, target.unsqueeze(1), torch.full((1, 1, *space), 4.0 + epoch))
    gone = torch.rand(target.shape, generator=generator) < 0.1 * index
    return logits.half(), target.masked_fill(gone, -100)


def states(rank: int, world: int, cases: int) -> dict[str, dict[str, Tensor]]:
    """Adapt every loss for some epochs to this rank's cases; the padding of a shard is skipped."""
    found = {}
    for name in LOSSES:
        loss = build(name, margin=1.0, rho_step=2)
        assert isinstance(loss, AdaptiveLoss)
        loss.bind(4)
        for epoch in range(EPOCHS):
            for index, scored in EvaluationSampler(cases, rank=rank, world=world):
                if scored:
                    loss.observe(*case(epoch, index))
            loss.adapt()
        found[name] = loss.state_dict()
    return found


def run(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    for world, cases in SHARES:
        if rank >= world:
            continue
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/{world}-{cases}", rank=rank, world_size=world
        )
        torch.save(states(rank, world, cases), f"{folder}/{world}-{cases}-{rank}.pt")
        torch.distributed.destroy_process_group()


def test_multipliers_do_not_depend_on_the_number_of_ranks(tmp_path: Path) -> None:
    start_processes(run, (str(tmp_path),), nprocs=3, start_method="fork")
    alone = {cases: states(0, 1, cases) for cases in (CASES, 1)}
    for world, cases in SHARES:
        for rank in range(world):
            found = torch.load(tmp_path / f"{world}-{cases}-{rank}.pt", weights_only=True)
            for name in LOSSES:
                for key, value in alone[cases][name].items():
                    torch.testing.assert_close(
                        found[name][key], value, rtol=1e-12, atol=0, msg=f"{name} {key} on {rank}"
                    )
    for name, state in alone[CASES].items():  # so the comparison can fail
        fresh = build(name, margin=1.0)
        fresh.bind(4)
        main = "gammas" if name == "adafocal" else "multipliers"
        assert (state[main] != fresh.state_dict()[main]).sum() >= 3, name
