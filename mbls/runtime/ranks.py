"""The rank of this process, before and after torch is imported; imports nothing heavy."""

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

    It reads the environment variables of torchrun, Lightning and srun, so it works before the
    process group exists.

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
    """Print a line on rank 0 only."""
    if is_first():
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def is_child_rank() -> bool:
    """Return True if Lightning on the first rank of this node started this process.

    torchrun sets ``RANK`` as well as ``LOCAL_RANK``.
    """
    return "RANK" not in os.environ and int(os.environ.get("LOCAL_RANK", 0)) > 0


def is_worker() -> bool:
    """Return True if Lightning, torchrun or srun started this process as a rank other than 0.

    These report the exit status of any rank. A first rank started by hand is not a worker.
    """
    return is_child_rank() or os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) != "0"


def rank_prefix() -> str:
    """Return ``Rank 1 on node7: `` on a rank other than 0 of a process group, else nothing."""
    rank = sys.modules["torch.distributed"].get_rank() if in_job() else 0
    return f"Rank {rank} on {socket.gethostname()}: " if rank else ""


def end_with_parent() -> None:
    """On Linux, kill this process when its parent ends for any reason.

    Otherwise NCCL kernels would wait for the lost rank for minutes.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def in_job() -> bool:
    """Return True if this process has joined a process group."""
    dist = sys.modules.get("torch.distributed")
    return dist is not None and dist.is_available() and dist.is_initialized()


def leave_job() -> None:
    """Destroy the process group, if any, when all ranks are done.

    This ends Gloo's threads: one that frees a tensor while Python exits aborts the process.
    """
    if in_job():
        sys.modules["torch.distributed"].destroy_process_group()
