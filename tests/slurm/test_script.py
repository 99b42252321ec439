"""The batch script: its options, and its behavior at signals, with fake Slurm commands."""

import os
import shlex
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.slurm.__main__ import run
from mbls.benchmark import State, make_cells, parse_losses
from mbls.config.options import parse, parser

CPU = ("--accelerator", "cpu")


def dry(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert run(["--dataset", "acdc", "--losses", "mbls", *args, "--dry-run"]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert run(["--dataset", "acdc", "--losses", "mbls", *args]) in (1, 2)
    return capsys.readouterr().err


def site(folder: Path, **settings: Any) -> str:
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump(settings))
    return str(path)


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_job_of_two_nodes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    mine = site(tmp_path, partition="gpu", account="me", gpus="gres", setup=["module load cuda"],
                container="apptainer exec --nv mbls.sif", options=["--exclusive"])  # fmt: skip
    text = dry(capsys, "--nodes", "2", "--devices", "4", "--time", "12:00:00", "--site", mine)
    options = [line.removeprefix("#SBATCH ") for line in text.splitlines() if "#SBATCH" in line]
    assert {
        "--nodes=2", "--ntasks-per-node=4", "--gres=gpu:4", "--time=12:00:00", "--partition=gpu",
        "--account=me", "--requeue", "--signal=B:USR1@120", "--open-mode=append", "--exclusive",
        "--cpus-per-task=8",
    } <= set(options)  # fmt: skip
    assert not any(option.startswith("--array") for option in options)
    assert 'srun --kill-on-bad-exit=1 apptainer exec --nv mbls.sif mbls "${args[@]}"' in text
    assert text.index("module load cuda") < text.index("args=(") < text.index("--prepare")


def test_array_runs_each_cell_once(capsys: pytest.CaptureFixture[str]) -> None:
    losses = "ce mbls:margin=3"
    text = dry(capsys, *CPU, "--losses", losses, "--seeds", "0 1", "--folds", "2 3")
    assert "#SBATCH --array=0-7\n" in text
    assert "gpus" not in text.partition("\n\n")[0]
    shared = ["--dataset", "acdc", *CPU, "--nodes", "1", "--devices", "1"]
    cells = make_cells(parse_losses(losses), [0, 1], [2, 3], train_args=shared)
    for k, cell in enumerate(cells):
        done = subprocess.run(
            ["bash", "-c", text.partition("job=")[0] + 'printf "%s\\n" "${args[@]}"'],
            env={"SLURM_ARRAY_TASK_ID": str(k)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        options, _ = parse(parser("train", None), done.stdout.splitlines()[1:])
        assert (options.run, options.loss) == (cell.folder, str(cell.loss))
        assert (options.seed, options.fold) == (cell.seed, cell.fold)


def test_finished_cells_are_left_out_and_stopped_ones_resumed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stopped = tmp_path / "runs/acdc/unet-mbls/seed1/checkpoints"
    stopped.mkdir(parents=True)
    (stopped / "last.ckpt").touch()
    text = dry(capsys, *CPU, "--seeds", "0 1")
    assert "1) args=(train --run runs/acdc/unet-mbls/seed1 --resume) ;;" in text
    monkeypatch.setattr("mbls.benchmark.cells.Cell.state", lambda _: State.FINISHED)
    assert run(["--dataset", "acdc", "--losses", "mbls"]) == 0
    assert "nothing is submitted" in capsys.readouterr().out
    monkeypatch.setattr("mbls.benchmark.cells.Cell.state", lambda _: State.BROKEN)
    assert "exists and has no checkpoint" in refused(capsys, *CPU)


def test_wrong_settings_are_refused_before_submission(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "TIME must be as in 24:00:00" in refused(capsys, "--time", "1 day")
    assert "multiple of 16, got 8. Take BATCH_SIZE=16" in refused(
        capsys, "--nodes", "2", "--devices", "8"
    )
    assert "Unknown option --run." in refused(capsys, "--run", "mine")
    assert "Did you mean --epochs?" in refused(capsys, "--epoch", "3")
    assert "Did you mean 'mbls'?" in refused(capsys, "--losses", "mbsl")
    assert "no such file" in refused(capsys, "--site", "none.yaml")
    wrong = site(tmp_path, partitoin="gpu")
    assert "unknown setting 'partitoin'. Did you mean 'partition'?" in refused(
        capsys, "--site", wrong
    )
    assert "lead must be a whole number >= 1, got 'x'" in refused(
        capsys, "--site", site(tmp_path, lead="x")
    )
    assert "Unknown option --trainer.max_epoch. Did you mean --trainer.max_epochs?" in refused(
        capsys, "--trainer.max_epoch", "3"
    )
    assert "Unknown setting 'lrr' of torch.optim.Adam. Did you mean 'lr'?" in refused(
        capsys, "--model.optimizer.init_args.lrr=3"
    )
    monkeypatch.setenv("PATH", "/nowhere")
    assert "There is no sbatch here" in refused(capsys)


# A step that records its start and its signals
PLAYED = {
    "mbls": """echo "prepare $*" >> log
trap 'exit 138' USR1
[[ ! -f slowly ]] || for _ in {1..200}; do sleep 0.05; done""",
    "squeue": "cat state",
    "scontrol": 'echo "scontrol $*" >> log',
    "srun": """echo "srun $*" >> log
trap 'exit 138' USR1
for _ in {1..200}; do sleep 0.05; [[ ! -f end ]] || exit $(cat end); done""",
}


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Start a batch script, and wait until its ranks, or its preparation, run."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in PLAYED.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(stat.S_IRWXU)

    def start(wait_for: str = "srun") -> subprocess.Popen:
        if wait_for != "srun":
            (tmp_path / "slowly").touch()
        if not (tmp_path / "state").is_file():
            (tmp_path / "state").write_text("RUNNING")
        file = site(tmp_path, mbls=str(tools / "mbls"))
        (tmp_path / "job.sh").write_text(dry(capsys, *CPU, "--site", file))
        path = f"{tools}:{os.environ['PATH']}"
        env = {"PATH": path, "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "1"}
        process = subprocess.Popen(["bash", "job.sh"], env=env, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 30
        while wait_for not in log(tmp_path) and time.monotonic() < end:
            time.sleep(0.02)
        return process

    return start


def log(folder: Path) -> str:
    return (folder / "log").read_text() if (folder / "log").is_file() else ""


def test_usr1_ends_the_ranks_and_requeues_the_job(script, tmp_path: Path) -> None:
    process = script()
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=30) == 138
    prepared, ran, requeued = log(tmp_path).splitlines()
    assert shlex.split(prepared)[-3:] == ["--job", "7", "--prepare"]
    assert shlex.split(ran)[-2:] == ["--job", "7"]
    assert requeued == "scontrol requeue 7"


@pytest.mark.parametrize(
    ("status", "state", "back"),
    [(0, "RUNNING", False), (1, "RUNNING", False), (138, "RUNNING", True),
     (143, "RUNNING", True), (143, "COMPLETING", False)],
    ids=["done", "failed", "signaled", "pre-empted", "cancelled"],
)  # fmt: skip
def test_exit_status_decides_about_the_requeue(
    status: int, state: str, back: bool, script, tmp_path: Path
) -> None:
    (tmp_path / "state").write_text(state)
    process = script()
    if status == 143:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert process.poll() is None  # it waits for its ranks
    (tmp_path / "end").write_text(str(status))
    assert process.wait(timeout=30) == status
    assert ("scontrol requeue 7" in log(tmp_path)) == back


def test_job_signaled_before_its_ranks_start_starts_none(script, tmp_path: Path) -> None:
    process = script(wait_for="prepare")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=30) == 138
    assert "srun" not in log(tmp_path)
    assert "scontrol requeue 7" in log(tmp_path)
