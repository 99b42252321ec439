"""Claims and locks of run folders."""

import errno
import fcntl
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mbls.callbacks import RunFolder
from mbls.callbacks.run_folder import claim
from mbls.config.options import parse, parser
from mbls.config.runs import run_settings
from mbls.runtime.errors import RunFolderError
from mbls.runtime.jobs import record_job
from mbls.runtime.locks import (
    LOCK,
    Owner,
    _mount_options,
    has_shared_locks,
    is_locked,
    lock_folder,
    owner_of,
    try_lock_folder,
    unlock,
)

NODE7 = json.dumps(asdict(Owner("node7", 7, "42", "2026-11-30 19:52")))


def failing(code: int) -> Callable[..., None]:
    """Return a function that fails with an error of the system."""

    def call(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return call


def claim_many(parent: Path, gate, claimed) -> None:
    gate.wait()
    for _ in range(20):
        claimed.put(claim(parent, "seed0").name)


def test_concurrent_claims_get_different_folders(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    gate, claimed = context.Barrier(4), context.Queue()
    workers = [
        context.Process(target=claim_many, args=(tmp_path / "runs", gate, claimed))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    names = [claimed.get(timeout=30) for _ in range(80)]
    for worker in workers:
        worker.join(timeout=30)
    assert sorted(names) == sorted(["seed0", *(f"seed0-{k}" for k in range(2, 81))])


def test_file_with_the_name_of_a_run_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "seed0").write_text("")
    assert claim(tmp_path, "seed0").name == "seed0-2"


def test_file_at_the_path_of_runs_raises(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunFolderError, match="runs must be a folder"):
        claim(tmp_path / "runs", "seed0")


def test_folder_is_known_once_claimed() -> None:
    with pytest.raises(RunFolderError, match="has started"):
        _ = RunFolder().path


def test_lock_is_exclusive(tmp_path: Path) -> None:
    first = lock_folder(tmp_path)
    with pytest.raises(RunFolderError, match="is locked by another process"):
        lock_folder(tmp_path)
    first.close()
    lock_folder(tmp_path, patience=5).close()


def test_forked_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    ours = RunFolder(folder=tmp_path)
    ours._lock_folder(tmp_path)
    gate = multiprocessing.get_context("fork").Event()
    worker = multiprocessing.get_context("fork").Process(target=gate.wait, args=(30,))
    worker.start()
    ours.release()
    locked = is_locked(tmp_path)
    gate.set()
    worker.join()
    assert not locked


def test_is_locked_does_not_keep_others_from_locking(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    with (tmp_path / LOCK).open() as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        assert not is_locked(tmp_path)  # a shared lock is another check
        threading.Timer(0.03, lambda: fcntl.flock(asking, fcntl.LOCK_UN)).start()
        unlock(lock_folder(tmp_path))


def test_failed_lock_leaves_no_open_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = len(list(Path("/dev/fd").iterdir()))
    monkeypatch.setattr("fcntl.flock", failing(errno.EIO))
    with pytest.raises(RunFolderError, match="Input/output error") as raised:  # keeps the frame
        try_lock_folder(tmp_path)
    assert len(list(Path("/dev/fd").iterdir())) == opened, raised


def test_folder_moved_while_it_is_locked_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "seed0"
    folder.mkdir()
    monkeypatch.setattr(
        "mbls.runtime.locks._try_lock", lambda file: folder.rename(tmp_path / "aside")
    )
    for _ in range(2):
        with pytest.raises(RunFolderError, match="seed0 cannot be written"):
            lock_folder(folder)


def test_checkpoint_to_resume_is_chosen_under_the_lock(tmp_path: Path) -> None:
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    lock = lock_folder(tmp_path)

    def end() -> None:
        torch.save({"mbls": {}}, last)
        lock.close()

    threading.Timer(0.3, end).start()
    trainer: Any = SimpleNamespace(
        is_global_zero=True, fast_dev_run=False, strategy=SimpleNamespace(broadcast=lambda x: x)
    )
    ours = RunFolder(folder=tmp_path, resume=True)
    ours.lock_to_resume(trainer)
    assert ours.checkpoint(trainer) == last
    assert is_locked(tmp_path)
    ours.release()
    assert not is_locked(tmp_path)


def test_file_system_without_locks_locks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.flock", failing(errno.ENOLCK))
    lock_folder(tmp_path).close()
    lock_folder(tmp_path).close()


def resume(folder: Path, **settings: Any) -> None:
    ours = RunFolder(folder=folder, resume=True, **settings)
    ours._lock_folder(folder)
    ours.release()


@pytest.fixture(params=["none", "local"])
def unshared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks, or with locks that other machines do not see."""

    if request.param == "none":
        monkeypatch.setattr("fcntl.flock", failing(errno.ENOLCK))
    else:
        monkeypatch.setattr("mbls.runtime.locks._mount_options", lambda _: {"rw", "localflock"})


@pytest.mark.usefixtures("unshared")
def test_resuming_without_locks_needs_the_option(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"add --run\.without_lock true") as raised:
        resume(tmp_path)
    assert "last known" not in str(raised.value)
    (tmp_path / LOCK).write_text(NODE7)  # which was killed, or is running
    with pytest.raises(RunFolderError, match=r"process 7 on node7 of job 42, since 2026-11-30"):
        resume(tmp_path)
    resume(tmp_path, without_lock=True)
    record_job(tmp_path, "42")
    resume(tmp_path, job="42")  # a batch system runs it once
    with pytest.raises(RunFolderError, match="without locks"):
        resume(tmp_path, job="43")


@pytest.mark.usefixtures("unshared")
def test_new_run_needs_no_lock(tmp_path: Path) -> None:
    ours = RunFolder(folder=tmp_path / "new")
    ours._lock_folder(ours._resolve("fit"))
    ours.release()


def test_this_file_system_has_locks(tmp_path: Path) -> None:
    assert has_shared_locks(tmp_path)
    with lock_folder(tmp_path):
        assert has_shared_locks(tmp_path)


def test_options_of_a_mount_are_found() -> None:
    """Those of the root, which is rw or ro."""
    device = Path("/").stat().st_dev
    found = _mount_options(f"{os.major(device)}:{os.minor(device)}")
    assert found & {"rw", "ro"}
    assert not _mount_options("999:999")


def test_owner_of_a_lock_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    lock = lock_folder(tmp_path)
    ours = owner_of(tmp_path)
    assert ours is not None
    assert (ours.host, ours.process, ours.job) == (socket.gethostname(), os.getpid(), "42")
    with pytest.raises(RunFolderError) as raised:
        lock_folder(tmp_path)
    message = str(raised.value)
    assert f"process {os.getpid()} on {ours.host} of job 42, since {ours.since}" in message
    assert "remove" not in message
    unlock(lock)
    assert owner_of(tmp_path) is None


def test_lock_of_a_dead_or_remote_owner_is_explained(tmp_path: Path) -> None:
    lock = lock_folder(tmp_path)
    (tmp_path / LOCK).write_text(NODE7)
    with pytest.raises(RunFolderError, match=rf"node7 is down.*remove {tmp_path / LOCK}\."):
        lock_folder(tmp_path)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / LOCK).write_text(json.dumps(asdict(replace(Owner.this(), process=gone.pid))))
    with pytest.raises(RunFolderError, match=rf"has ended.*fuser {tmp_path / LOCK}"):
        lock_folder(tmp_path)
    for text in ("", "1", "{}", "no JSON"):  # of an earlier version
        (tmp_path / LOCK).write_text(text)
        with pytest.raises(RunFolderError, match=f"Run folder {tmp_path} is locked .*Wait"):
            lock_folder(tmp_path)
    lock.close()


def test_resuming_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"run\.resume needs"):
        RunFolder(root=tmp_path, resume=True)._resolve("fit")
    assert not list(tmp_path.iterdir())


def test_requeued_job_gets_its_own_folder_only(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    for _ in range(2):
        assert RunFolder(folder=mine, job="7")._resolve("fit") == mine
    for other in ("8", None):
        with pytest.raises(RunFolderError, match="mine exists"):
            RunFolder(folder=mine, job=other)._resolve("fit")


def test_requeued_job_resumes_with_its_own_configuration(tmp_path: Path) -> None:
    run = tmp_path / "seed0"
    given = ["--dataset", "acdc", "--loss", "ce", "--run", str(run), "--job", "7"]

    def settings() -> dict[str, str | None]:
        fold = ["--data.init_args.division.fold", "1"]
        options, rest = parse(parser("train", None), [*given, *fold])
        return dict(run_settings(options, rest))

    run.mkdir()
    record_job(run, "7")
    assert settings()["data.init_args.division.fold"] == "1"  # it wrote nothing yet
    (run / "config.yaml").touch()
    config = str(run / "config.yaml")
    assert settings() == {
        "config": config, "run.folder": str(run), "run.resume": "True", "run.job": "7"
    }  # fmt: skip
    record_job(run, "8")
    assert settings()["run.loss"] == "ce"
