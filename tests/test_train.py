"""Training on a datamodule without files: the run folder, and digits that can be reproduced."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mbls.cli import main
from mbls.evaluation import from_bins
from mbls.runtime.locks import is_locked, lock_folder
from tests import processes, tiny

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that was trained and tested."""
    folder = tmp_path_factory.mktemp("trained")
    assert main(["train", *tiny.train_args(folder), *tiny.callback("NoteLocked")]) == 0
    return tiny.run_folder(folder)


def test_run_folder_has_its_files(run: Path) -> None:
    for name in ("config.yaml", "run.json", "metrics.csv", "checkpoints/best.ckpt",
                 "checkpoints/last.ckpt", "checkpoints/previous.ckpt", "test/best/metrics.json",
                 "test/best/cases.csv", "test/best/bins.npz", "test/best/worst.npz"):  # fmt: skip
        assert (run / name).is_file(), name
    card = json.loads((run / "run.json").read_text())
    assert card["finished"] is True
    assert (card["dataset"], card["network"], card["loss"]) == ("blobs", "tiny", "mbls")
    assert card["data_origin"] == "phantom"
    assert card["threads"] == torch.get_num_threads()
    assert set(card["cpus"]) == {"seen", "allowed"}
    assert card["threads_set_by"].get("OMP_NUM_THREADS") == os.environ.get("OMP_NUM_THREADS")
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    wanted = {"train/loss", "train/ce", "train/margin", "val/dice", "val/dice/ring",
              "val/dice/disc", "val/ece", "val/ece_label", "val/cece", "val/nll"}  # fmt: skip
    assert wanted <= set(rows[0])
    assert [row["epoch"] for row in rows] == ["0", "1"]
    metrics = json.loads((run / "test/best/metrics.json").read_text())
    assert from_bins(run / "test/best/bins.npz") == metrics


def test_run_folder_is_locked_until_the_test_is_over(run: Path) -> None:
    assert (run / "locked").read_text() == "True"
    assert not is_locked(run)


def test_results_that_another_process_writes_are_locked(
    run: Path, monkeypatch: pytest.MonkeyPatch, refusal: Callable[..., str]
) -> None:
    monkeypatch.setattr("mbls.callbacks.results.PATIENCE", 0)
    before = (run / "test/best/cases.csv").stat().st_mtime_ns
    with lock_folder(run / "test/best"):
        error = refusal("evaluate", str(run))
    assert f"{run}/test/best is locked by another process (process" in error
    assert (run / "test/best/cases.csv").stat().st_mtime_ns == before


KILLED_WHILE_DRAWING = """
import os, signal, sys
import mbls.evaluation.results as results
from mbls.cli import main
results.write_figures = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
main(sys.argv[1:])
"""


def test_killed_evaluation_leaves_the_earlier_results(run: Path) -> None:
    files = [run / "test/best" / name for name in ("metrics.json", "cases.csv", "bins.npz")]
    before = [file.stat().st_mtime_ns for file in files]
    args = [sys.executable, "-c", KILLED_WHILE_DRAWING, "evaluate", str(run)]
    env = os.environ | {"PYTHONPATH": str(processes.ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(args, env=env, cwd=processes.ROOT, capture_output=True, timeout=200)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [file.stat().st_mtime_ns for file in files] == before


@pytest.mark.usefixtures("figures")
def test_evaluate_gives_the_digits_of_the_run_and_draws_figures(run: Path) -> None:
    best = run / "test" / "best"
    before = {name: (best / name).read_bytes() for name in ("metrics.json", "cases.csv")}
    card = (run / "run.json").read_bytes()
    assert main(["evaluate", str(run)]) == 0
    assert {name: (best / name).read_bytes() for name in before} == before
    assert not list(best.glob("*.incoming"))  # of the killed evaluation
    for name in ("reliability", "worst"):
        assert (best / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "run.json").read_bytes() == card


def test_evaluation_without_pictures_removes_earlier_ones(run: Path) -> None:
    folder = run / "test" / "best"
    assert (folder / "worst.npz").is_file()
    assert main(["evaluate", str(run), "--results.pictures", "0"]) == 0
    assert not list(folder.glob("worst.*"))
    assert main(["evaluate", str(run), "--ckpt", "last"]) == 0
    assert (run / "test" / "last" / "metrics.json").is_file()


def test_second_run_gets_a_folder_of_its_own(run: Path) -> None:
    assert tiny.fit(*tiny.train_args(run.parents[3], epochs=1)) == 0
    assert sorted(path.name for path in run.parent.iterdir()) == ["seed0", "seed0-2"]


def test_mirroring_without_flips_in_training_is_reported_and_kept_apart(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), "--mirror", "1,0"]) == 0
    out = capfd.readouterr().out
    assert "mirrorings along the axes 0, 1" in out
    assert "augmentation.flip is None" in out
    assert main(["evaluate", str(run), "--mirror", "1"]) == 0
    assert "mirrorings along axis 1" in capfd.readouterr().out
    for axes in ([0, 1], [1]):
        tag = "best-mirrored-" + "".join(map(str, axes))
        metrics = json.loads((run / "test" / tag / "metrics.json").read_text())
        assert metrics["meta"]["mirror"] == axes


def test_finished_run_is_resumed_with_more_epochs_only(
    run: Path, capfd: pytest.CaptureFixture[str], refusal: Callable[..., str]
) -> None:
    results = [run / "test/best/metrics.json", run / "run.json"]
    before = [file.stat().st_mtime_ns for file in results]
    assert main(["train", "--run", str(run), "--resume"]) == 0
    out = capfd.readouterr().out
    assert f"{run} is finished" in out
    assert "EPOCHS=3" in out
    assert [file.stat().st_mtime_ns for file in results] == before
    error = refusal("train", "--run", str(run), "--resume", "--epochs", "1")
    assert "the checkpoint's 2 epochs" in error
    assert main(["train", "--run", str(run), "--resume", "--epochs", "3"]) == 0
    assert json.loads(results[1].read_text())["epochs"] == 3
    assert all(file.stat().st_mtime_ns > b for file, b in zip(results, before, strict=True))


def test_missing_class_of_a_resumed_run_is_named(
    run: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    text = (run / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("class_path: tests.", "class_path: gone."))
    error = refusal("train", "--run", str(folder), "--resume", "--prepare")
    assert "there is no module gone" in error


def test_long_runs_and_other_precision_are_reported(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    args = tiny.train_args(tmp_path, epochs=1)
    args[args.index("quick")] = "paper"
    assert tiny.fit(*args, "--precision", "16-mixed") == 0
    printed = capfd.readouterr()
    assert f"Training in {tiny.run_folder(tmp_path)}" in printed.out
    assert "bf16-mixed is used instead" in printed.out
    assert "fp16 is not supported" not in printed.err
    card = json.loads((tiny.run_folder(tmp_path) / "run.json").read_text())
    assert card["precision"] == "bf16-mixed"
    assert "may take days" not in printed.out  # an epoch does not
    del args[args.index("--epochs") : args.index("--epochs") + 2]
    assert main(["train", *args, "--run", str(tiny.run_folder(tmp_path))]) == 1  # it exists
    printed = capfd.readouterr()
    assert "preset paper · epochs 100 ·" in printed.out
    assert "100 epochs, which may take days on a CPU" in printed.out
    assert "EPOCHS=2 PRESET=quick" in printed.out
