"""On a real Slurm: two tasks train together, and a requeued job ends with the same weights."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from tests import processes, tiny
from tests.slurm.cluster import ask, cluster, missing, state, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ddp,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
    pytest.mark.timeout(1500),
]


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory() as name, cluster(Path(name)) as env:
        yield env | {"PYTHONPATH": str(processes.ROOT), "COLUMNS": "200"}


def submit(env: dict[str, str], folder: Path) -> str:
    """Submit a run of two ranks on the CPU in a folder of its own; the job's number."""
    args = tiny.train_args(folder, train=80, batch_size=4, epochs=3)
    args = [w for w in args if w != "--loss" and w != "mbls" and "run.root" not in w]
    args.remove(str(folder / "runs"))
    site = {"cpus_per_task": 1, "mbls": str(processes.MBLS)}
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    done = subprocess.run(
        [sys.executable, "-m", "experiments.slurm", "--losses", "mbls", "--devices", "2",
         "--time", "30", "--site", "site.yaml", *args, *tiny.callback("Slow", seconds=0.2)],
        cwd=folder, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Run folder: runs/blobs/tiny-mbls/seed0" in done.stdout
    return done.stdout.partition("Job ")[2].partition(" ")[0]


def job_output(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("runs/slurm/*.out"))


def finish(env: dict[str, str], job: str, folder: Path) -> Path:
    wait_until(lambda: state(env, job) not in ("PENDING", "RUNNING", "COMPLETING"), "the end")
    assert state(env, job) == "COMPLETED", job_output(folder)
    return tiny.run_folder(folder)


def in_epoch(run: Path, epoch: int):
    """Whether the run is in an epoch, some batches after its begin."""
    steps = run / "steps"

    def there() -> bool:
        return steps.is_file() and int(steps.read_text() or 0) >= 20 * epoch + 5

    return there


def test_job_requeued_twice_ends_with_equal_results(slurm: dict[str, str], tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    wanted = finish(slurm, submit(slurm, whole), whole)
    assert '"ranks": 2' in (wanted / "run.json").read_text()
    assert job_output(whole).count("Run folder:") == 1

    job = submit(slurm, parts)
    run = tiny.run_folder(parts)
    wait_until(in_epoch(run, 0), "the first epoch")
    ask(slurm, "scancel", "--batch", "--signal=USR1", job)  # as before the time limit
    wait_until(lambda: "Back to the queue" in job_output(parts), "the job's return to the queue")
    wait_until(in_epoch(run, 1), "the second epoch")
    ask(slurm, "sbatch", "--partition=urgent", "--exclusive", "--wrap=true", "--output=/dev/null")
    wait_until(lambda: job_output(parts).count("Back to the queue") == 2, "pre-emption")
    found = finish(slurm, job, parts)

    printed = job_output(parts)
    assert printed.count("Stopped in epoch 1") == printed.count("Stopped in epoch 2") == 1
    assert [path.name for path in found.parent.iterdir() if path.is_dir()] == ["seed0"]
    for name in ("best", "last"):
        ours, theirs = (
            torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
            for folder in (found, wanted)
        )
        for key, value in theirs.items():
            assert torch.equal(ours[key], value), (name, key)
    assert (found / "metrics.csv").read_bytes() == (wanted / "metrics.csv").read_bytes()
    for name in ("metrics.json", "cases.csv"):
        assert (found / "test/best" / name).read_bytes() == (
            wanted / "test/best" / name
        ).read_bytes()
