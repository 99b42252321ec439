"""Which process of a job this is, and how it ends when another is lost; imports nothing heavy."""

import multiprocessing
import os
import sys
from collections.abc import Mapping
from typing import NoReturn

__all__ = [
    "PREPARED",
    "end_at_once",
    "in_job",
    "is_first",
    "leave_job",
    "may_tell_of_loss",
    "say",
]

PREPARED = "MBLS_PREPARED"
"""Which process has prepared the data, in the environment of the ranks that lightning starts."""


def is_first(env: Mapping[str, str] | None = None) -> bool:
    """Say whether this process is the one that speaks: the only one, or rank 0 of several.

    It can be asked before lightning knows: torchrun, lightning and srun name the rank in the
    environment.

    Example:
        >>> is_first({}), is_first({"RANK": "8", "LOCAL_RANK": "0"})
        (True, False)
    """
    env = os.environ if env is None else env
    if "RANK" in env:  # torchrun
        return env["RANK"] == "0"
    if "LOCAL_RANK" in env or "NODE_RANK" in env:  # lightning, or nodes started by hand
        return env.get("LOCAL_RANK", "0") == env.get("NODE_RANK", "0") == "0"
    return env.get("SLURM_PROCID", "0") == "0"


def say(text: str) -> None:
    """Print a line, once and not on every rank."""
    if is_first():
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def may_tell_of_loss() -> bool:
    """Say whether this process tells that another is lost: rank 0, or rank 1 where 0 may be it.

    Lightning, which is at work where ranks are lost, knows the rank over all nodes.
    """
    from lightning.pytorch.utilities import rank_zero_only

    return int(getattr(rank_zero_only, "rank", 0)) <= 1


def end_at_once(status: int) -> NoReturn:
    """End this process, and those that load data for it, without tidying up.

    That takes Python seconds, torch loaded, for which the ranks that wait for this one wait on.
    """
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:  # also where nobody reads, or the disk is full
        for process in multiprocessing.active_children():
            process.kill()
        os._exit(status)


def in_job() -> bool:
    """Say whether this process is a rank that has joined others."""
    dist = sys.modules.get("torch.distributed")
    return dist is not None and dist.is_available() and dist.is_initialized()


def leave_job() -> None:
    """Leave the others, where all ranks have done their work.

    Gloo's threads end here: one that lets go of a tensor while Python ends aborts the process.
    """
    if in_job():
        sys.modules["torch.distributed"].destroy_process_group()
