"""The run folder is claimed once, by one process."""

import multiprocessing
from pathlib import Path

import pytest

from mbls.callbacks import RunFolder
from mbls.callbacks.run_folder import claim
from mbls.errors import RunFolderError


def claim_many(parent: Path, gate, claimed) -> None:
    gate.wait()
    for _ in range(20):
        claimed.put(claim(parent, "seed0").name)


def test_processes_that_claim_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
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


def test_a_file_in_the_way_of_the_name_is_stepped_over(tmp_path: Path) -> None:
    (tmp_path / "seed0").write_text("")
    assert claim(tmp_path, "seed0").name == "seed0-2"


def test_a_file_in_the_way_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunFolderError, match="runs is a file; runs need a folder there"):
        claim(tmp_path / "runs", "seed0")


def test_the_folder_is_known_once_claimed() -> None:
    with pytest.raises(RunFolderError, match="claimed when a fit or an evaluation starts"):
        _ = RunFolder().path
