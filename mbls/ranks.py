"""Which process of a job this is; imports nothing heavy."""

import os
import sys
from collections.abc import Mapping

__all__ = ["is_first", "say"]


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
