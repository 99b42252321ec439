"""Which process of a job this is, before and after torch is loaded; imports nothing heavy."""

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Mapping

__all__ = [
    "end_with_parent",
    "in_job",
    "is_child_rank",
    "is_first",
    "is_worker",
    "leave_job",
    "print_once",
    "rank_prefix",
]

PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


def is_first(env: Mapping[str, str] | None = None) -> bool:
    """Return True if this is the only process, or rank 0 of several.

    It can be asked before Lightning knows: torchrun, Lightning and srun name the rank in the
    environment.

    Example:
        >>> is_first({}), is_first({"RANK": "8", "LOCAL_RANK": "0"})
        (True, False)
    """
    env = os.environ if env is None else env
    if "RANK" in env:  # torchrun
        return env["RANK"] == "0"
    if "LOCAL_RANK" in env or "NODE_RANK" in env:  # Lightning, or nodes started by hand
        return env.get("LOCAL_RANK", "0") == env.get("NODE_RANK", "0") == "0"
    return env.get("SLURM_PROCID", "0") == "0"


def print_once(text: str) -> None:
    """Print a line on the first rank alone."""
    if is_first():
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def is_child_rank() -> bool:
    """Return True if Lightning started this process, from the first rank of its node.

    torchrun names a ``RANK`` next to the local one.
    """
    return "RANK" not in os.environ and int(os.environ.get("LOCAL_RANK", 0)) > 0


def is_worker() -> bool:
    """Return True if Lightning, torchrun or srun started this process as a rank other than 0.

    Their status and console are the job's. A node's first rank, started by hand, is no worker.
    """
    return is_child_rank() or os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) != "0"


def rank_prefix() -> str:
    """Return ``Rank 1 on node7: `` on a rank other than 0 that has joined others, else nothing."""
    rank = sys.modules["torch.distributed"].get_rank() if in_job() else 0
    return f"Rank {rank} on {socket.gethostname()}: " if rank else ""


def end_with_parent() -> None:
    """Let Linux kill this process when the one that started it ends, however it does.

    A GPU's kernels wait for a lost rank for minutes.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def in_job() -> bool:
    """Return True if this process is a rank that has joined others."""
    dist = sys.modules.get("torch.distributed")
    return dist is not None and dist.is_available() and dist.is_initialized()


def leave_job() -> None:
    """Leave the other ranks when all have done their work.

    Gloo's threads end here: one that releases a tensor while Python ends aborts the process.
    """
    if in_job():
        sys.modules["torch.distributed"].destroy_process_group()
