"""What comes before training: settings that ranks can share, and data prepared once."""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from mbls.callbacks.progress import say_stage
from mbls.data import DataModule
from mbls.runtime.errors import ChoiceError, FirstRankError, rank_lost
from mbls.runtime.ranks import PREPARED, end_at_once, may_tell_of_loss
from mbls.runtime.threads import share_cpus

__all__ = [
    "check_launcher",
    "check_ranks",
    "first_ends",
    "mark_of",
    "prepare_once",
    "require_gpu",
    "started_by_hand",
]

GRACE = 3.0  # seconds in which a rank ends by itself after rank 0, in good order or not
PATIENCE = 10.0  # seconds in which rank 0 raises what another rank did, and says it


def check_ranks(trainer: Trainer, data: DataModule) -> None:
    """Refuse settings of a fit that its ranks cannot share, before there are any.

    Raises:
        ChoiceError: The batch cannot be divided among them, or batch norm not synchronised.
    """
    ranks, batch = trainer.world_size, data.batch_size
    if batch % ranks:
        raise ChoiceError(
            f"batch_size counts the samples over all {ranks} ranks and must be a multiple of "
            f"{ranks}, got {batch}. Take BATCH_SIZE={-(-batch // ranks) * ranks} (--batch-size), "
            "or other DEVICES and NODES."
        )
    synced = getattr(trainer.strategy, "_layer_sync", None) is not None
    if synced and ranks > 1 and trainer.strategy.root_device.type == "cpu":
        raise ChoiceError(
            "trainer.sync_batchnorm must be false on the CPU: torch synchronises batch norm on "
            "GPUs alone. Leave it out (make: SYNC_BATCHNORM), or take a network without batch norm."
        )


def require_gpu(accelerator: object) -> None:
    """Raise ChoiceError where a GPU is asked for and torch has none."""
    asked = str(accelerator).lower()
    here = torch.cuda.is_available() or (asked != "cuda" and torch.backends.mps.is_available())
    if asked not in ("gpu", "cuda") or here:
        return
    reason = "built without CUDA" if torch.version.cuda is None else "which finds none"
    raise ChoiceError(
        f"accelerator={asked} needs a GPU that torch can use, found torch {torch.__version__}, "
        f"{reason}. Take ACCELERATOR=cpu (--accelerator cpu), or a machine with a GPU."
    )


def check_launcher(trainer: Trainer) -> None:
    """Raise ChoiceError where ranks are no programs of their own, as with ``ddp_spawn``.

    The trained state would stay in them, and the test after it be of untrained weights.
    """
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise ChoiceError(
            "trainer.strategy must start ranks as programs of their own, got one that forks or "
            "spawns them: the trained weights would be lost with them. Leave it out, or take ddp "
            "(--trainer.strategy ddp)."
        )


def prepare_once(trainer: Trainer, prepare: Callable[[], Any]) -> None:
    """Prepare the data in one process.

    Where lightning will start the ranks, that is before there are any, and they share the CPUs.
    Where torchrun or srun started them, rank 0 prepares and the others wait, for as long as it
    takes.

    Raises:
        FirstRankError: On the waiting ranks, where rank 0 failed; its own error says why.
    """
    if os.environ.get("LOCAL_RANK") and prepared_by_first():
        _end_with(int(os.environ[PREPARED].split(" ")[1]))
        return
    if trainer.world_size == 1 or not _launched(trainer):
        say_stage("preparing the data")
        prepare()
        os.environ[PREPARED] = mark_of(os.getpid())
        if trainer.num_devices > 1:
            share_cpus(trainer.num_devices)
        return
    trainer.strategy.setup_environment()  # joins the ranks; lightning's own call finds it done
    group = dist.new_group(backend="gloo", timeout=timedelta(days=1000))
    done = torch.zeros(1)
    try:
        if trainer.is_global_zero:
            say_stage("preparing the data")
            prepare()
            done += 1
    finally:
        dist.broadcast(done, src=0, group=group)
        dist.destroy_process_group(group)
    if not done:
        raise FirstRankError("Rank 0 could not prepare the data; what it printed says why.")


def mark_of(process: int) -> str:
    """Return what tells a process of this machine from all others: host, id, and when it began."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:  # it has ended, or the system is not Linux
        began = ""
    else:
        began = stat.rpartition(")")[2].split()[19]  # field 22, in ticks since the system began
    return f"{socket.gethostname()} {process} {began}"


def prepared_by_first(env: Mapping[str, str] | None = None) -> bool:
    """Return True if rank 0 has prepared the data: this process, or its parent, be it gone.

    A job that is started from within another one, or after it, may inherit that one's mark, which
    is not its own: torchrun's ranks never have one, nor has a rank a parent on another machine.
    """
    env = os.environ if env is None else env
    mark = env.get(PREPARED, "")
    host, _, rest = mark.partition(" ")
    number = rest.partition(" ")[0]
    if "RANK" in env or host != socket.gethostname() or not number.isdecimal():
        return False
    first = int(number)
    there = is_alive(first) and mark_of(first) == mark
    return first in (os.getpid(), os.getppid()) if there else True


def is_alive(process: int) -> bool:
    """Return True if there is a process of this id."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _end_with(first: int) -> None:
    """End this rank within seconds of rank 0, its parent, which may be killed without a word."""

    def watch() -> None:
        while os.getppid() == first:
            time.sleep(1)
        time.sleep(GRACE)
        if may_tell_of_loss():
            sys.stderr.write(f"\nmbls: {rank_lost(f'rank 0, process {first}, is gone')}\n")
        end_at_once(1)

    if os.getpid() != first:
        threading.Thread(target=watch, daemon=True).start()


def started_by_hand() -> bool:
    """Say whether a user started this process, which is then the first of its node.

    Lightning, which names the local rank in the environment of those that it starts, does so in
    that of this process, too, once they run.
    """
    named = "LOCAL_RANK" in os.environ or "SLURM_PROCID" in os.environ
    return not named or os.environ.get(PREPARED) == mark_of(os.getpid())


def first_ends() -> bool:
    """Wait for a while for rank 0 to end, and say whether it did; it may raise what this rank did.

    It is looked at where it is this process's parent. Whoever else starts ranks, torchrun or srun,
    ends this one when rank 0 fails.
    """
    parent = os.getppid()
    child = os.environ.get(PREPARED) == mark_of(parent)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if child and os.getppid() != parent:
            return True
        time.sleep(0.1)
    return False


def _launched(trainer: Trainer) -> bool:
    """Say whether the ranks were started by something else than lightning."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return environment is not None and bool(environment.creates_processes_externally)
