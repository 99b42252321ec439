"""The text of a batch script."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.slurm.site import Site

__all__ = ["Job", "batch_script"]

BODY = """
job=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}
[[ -z ${SLURM_ARRAY_TASK_ID:-} ]] || job+=_$SLURM_ARRAY_TASK_ID
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

# SIGUSR1 comes to this shell before the time limit, and is forwarded; SIGTERM reaches the ranks
# without its help. The run ends after its batch, with a checkpoint.
stop= child=
trap 'stop=1; [[ -z $child ]] || kill -USR1 "$child" 2>/dev/null || true' USR1
trap 'stop=1' TERM

run() {
  "$@" &
  child=$!
  status=0
  wait "$child" || status=$?
  while kill -0 "$child" 2>/dev/null; do
    status=0
    wait "$child" || status=$?
  done
}

run @MBLS@ "${args[@]}" --job "$job" --prepare  # one process reads the data before there are ranks
if [[ -n $stop ]]; then
  status=138
elif [[ $status == 0 ]]; then
  run srun --kill-on-bad-exit=1 @MBLS@ "${args[@]}" --job "$job"
fi
case $status in 138 | 143) stop=1 ;; esac  # the ranks alone got the signal
# A job that is cancelled, or requeued by Slurm, is not running any more, and is left alone.
if [[ $status != 0 && -n $stop && $(squeue -h -j "$SLURM_JOB_ID" -o %T) == RUNNING ]]; then
  echo "Back to the queue; resumes where it stopped."
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""


@dataclass(frozen=True)
class Job:
    """A job of Slurm.

    Args:
        name: The job's name.
        commands: Arguments of ``mbls`` of each task; several make an array.
        nodes: Nodes.
        devices: Ranks a node, with a GPU each unless ``cpu``.
        time: Time limit, as sbatch writes it.
        cpu: Whether to train without GPUs.
    """

    name: str
    commands: Sequence[Sequence[str]]
    nodes: int
    devices: int
    time: str
    cpu: bool


def batch_script(job: Job, site: Site) -> str:
    """Return the script of a job; it is run in the folder it is submitted from."""
    mbls = site.mbls or ("mbls" if site.container else str(Path(sys.executable).with_name("mbls")))
    program = f"{site.container} {shlex.quote(mbls)}" if site.container else shlex.quote(mbls)
    body = BODY.replace("@MBLS@", program)
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in options(job, site)), ""]
    return "\n".join([*lines, "set -u", *site.setup, *args_of(job.commands)]) + body


def options(job: Job, site: Site) -> list[str]:
    """Return the options of sbatch."""
    array = len(job.commands) > 1
    stated = {
        "job-name": job.name,
        "nodes": job.nodes,
        "ntasks-per-node": job.devices,
        "cpus-per-task": site.cpus_per_task,
        "gres": f"gpu:{job.devices}" if site.gpus == "gres" and not job.cpu else None,
        "gpus-per-node": job.devices if site.gpus == "gpus-per-node" and not job.cpu else None,
        "mem": site.memory,
        "time": job.time,
        "partition": site.partition,
        "account": site.account,
        "qos": site.qos,
        "constraint": site.constraint,
        "array": f"0-{len(job.commands) - 1}" if array else None,
        "output": site.logs / (f"{job.name}-%A_%a.out" if array else f"{job.name}-%j.out"),
        "open-mode": "append",
        "signal": f"B:USR1@{site.lead}",
    }
    return [f"--{key}={value}" for key, value in stated.items() if value is not None] + [
        "--requeue", *site.options
    ]  # fmt: skip


def args_of(commands: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines that set the arguments of this task's run."""
    if len(commands) == 1:
        return [_line(commands[0])]
    cases = [f"  {k}) {_line(command)} ;;" for k, command in enumerate(commands)]
    return ["case $SLURM_ARRAY_TASK_ID in", *cases, "esac"]


def _line(command: Sequence[str]) -> str:
    return f"args=({shlex.join(command)})"
