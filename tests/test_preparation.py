"""Rank 0 prepares the data, once, before the other ranks start or while they wait."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.plugins.environments import LightningEnvironment

from mbls.config.preparation import prepare_once


@pytest.mark.parametrize(("local_rank", "prepares"), [(None, True), ("0", True), ("1", False)])
def test_first_rank_of_a_node_prepares_before_lightning_starts_the_others(
    local_rank: str | None, prepares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    environment = LightningEnvironment()
    if local_rank:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    prepared: list[int] = []
    trainer: Any = SimpleNamespace(
        world_size=1, num_devices=1, strategy=SimpleNamespace(cluster_environment=environment)
    )
    prepare_once(trainer, lambda: prepared.append(1))
    assert bool(prepared) == prepares


CHILD = "import time; from mbls.runtime.ranks import end_with_parent; end_with_parent();" \
        "print('ready', flush=True); time.sleep(60)"  # fmt: skip
PARENT = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1]]);" \
         "time.sleep(60)"  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="Linux kills it")
def test_rank_ends_with_the_process_that_started_it() -> None:
    args = [sys.executable, "-c", PARENT, CHILD]
    parent = subprocess.Popen(args, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    parent.send_signal(signal.SIGKILL)
    assert parent.stdout.read() == ""  # to its end: the child has the pipe, too
    parent.wait()
