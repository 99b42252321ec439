"""A Slurm of one machine in a scratch folder: its own keys, ports, state and logs."""

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.processes import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")

# two partitions: jobs of `urgent` send those of `main` back to the queue, after a grace
CONF = """
ClusterName=scratch
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=batch_sched_delay=0,sched_interval=2
ReturnToService=2
KillWait=30
MailProg=/bin/true
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF
"""


def missing() -> str | None:
    """Why there can be no cluster here, or None."""
    if os.environ.get("MBLS_SLURM") != "1":
        return "starts a Slurm of its own: ask for it with MBLS_SLURM=1"
    lacking = [name for name in PROGRAMS if _find(name) is None]
    if lacking:
        return f"needs {', '.join(lacking)} (Debian: slurm-wlm, munge)"
    return None if os.geteuid() == 0 else "slurmd needs root"


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Run a cluster in ``folder``; gives the environment in which its commands find it."""
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    ports = {"ctld_port": free_port(), "slurmd_port": free_port()}
    (folder / "slurm.conf").write_text(CONF.format(host=host, folder=folder, **ports))
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    munged = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    env = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    daemons = [
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munged],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D"],
    ]
    started: list[subprocess.Popen] = []
    try:
        for args in daemons:
            program = _find(args[0])
            assert program is not None
            started.append(
                subprocess.Popen(
                    [program, *args[1:]],
                    env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )
            )  # fmt: skip
            time.sleep(1)
        wait_until(lambda: "idle" in ask(env, "sinfo", "-h", "-o", "%t"), "an idle node")
        yield env
    finally:
        for daemon in reversed(started):
            daemon.terminate()
            daemon.wait(timeout=60)


def ask(env: dict[str, str], *args: str) -> str:
    """The output of a command of Slurm."""
    done = subprocess.run(args, env=env, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def state(env: dict[str, str], job: str) -> str:
    """The state of a job: PENDING, RUNNING, COMPLETED, FAILED, ..."""
    shown = ask(env, "scontrol", "show", "job", job)
    return shown.partition("JobState=")[2].partition(" ")[0]


def wait_until(there, what: str, *, limit: float = 400) -> None:
    """Wait until a condition is true."""
    end = time.monotonic() + limit
    while not there():
        assert time.monotonic() < end, f"waited {limit} s for {what}"
        time.sleep(0.2)


def _find(program: str) -> str | None:
    return shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin")
