"""The data is prepared once, before ranks start or while they wait."""

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

    Where Lightning starts the ranks of a node, the process that starts them prepares before, and
    they share the CPUs. Where torchrun or srun started them, rank 0 prepares and the others wait,
    for as long as it takes.

    Raises:
        FirstRankError: On the waiting ranks, where rank 0 failed; its own error says why.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if isinstance(environment, LightningEnvironment) and is_child_rank():
        return  # prepared by its parent
    if trainer.world_size == 1 or not environment.creates_processes_externally:  # type: ignore[union-attr]
        log_stage("preparing the data")
        prepare()
        if trainer.num_devices > 1:
            share_cpus(trainer.num_devices)
        return
    trainer.strategy.setup_environment()  # joins the ranks; Lightning's own call finds it done
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
        raise FirstRankError("Rank 0 could not prepare the data; its own message says why.")
