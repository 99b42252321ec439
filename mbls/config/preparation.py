"""Prepare the data once, before the ranks start or while they wait."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment

from mbls.callbacks.progress import log_stage
from mbls.runtime.errors import FirstRankError
from mbls.runtime.ranks import is_child_rank
from mbls.runtime.threads import share_cpus

__all__ = ["prepare_once"]


def prepare_once(trainer: Trainer, prepare: Callable[[], Any]) -> None:
    """Prepare the data in one process.

    If Lightning starts the ranks of a node, their parent prepares the data before, and then divides
    the CPUs among them. If torchrun or srun started them, rank 0 prepares and the others wait
    without a timeout.

    Raises:
        FirstRankError: On the waiting ranks, if rank 0 failed.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if isinstance(environment, LightningEnvironment) and is_child_rank():
        return  # the parent has prepared the data
    if trainer.world_size == 1 or not environment.creates_processes_externally:  # type: ignore[union-attr]
        log_stage("preparing the data")
        prepare()
        if trainer.num_devices > 1:
            share_cpus(trainer.num_devices)
        return
    trainer.strategy.setup_environment()  # creates the process group; Lightning reuses it
    group = dist.new_group(backend="gloo", timeout=timedelta(days=1000))
    done = torch.zeros(1)
    try:
        if trainer.is_global_zero:
            log_stage("preparing the data")
            prepare()
            done += 1
    finally:
        dist.broadcast(done, src=0, group=group)
        dist.destroy_process_group(group)
    if not done:
        raise FirstRankError("Rank 0 could not prepare the data; see its message.")
