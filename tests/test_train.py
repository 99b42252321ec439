"""The main job on a datamodule without files: the run folder, and digits that can be had again."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mbls.cli import main
from mbls.evaluation import from_bins
from mbls.runtime.locks import is_locked, lock_folder
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was trained and tested."""
    folder = tmp_path_factory.mktemp("trained")
    assert main(["train", *tiny.words(folder), *tiny.callback("NoteHeld")]) == 0
    return tiny.run_folder(folder)


def test_a_run_leaves_what_the_design_lists(run: Path) -> None:
    for name in ("config.yaml", "run.json", "metrics.csv", "checkpoints/best.ckpt",
                 "checkpoints/last.ckpt", "checkpoints/previous.ckpt", "test/best/metrics.json",
                 "test/best/cases.csv", "test/best/bins.npz",
                 "test/best/reliability.png"):  # fmt: skip
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


def test_a_run_is_held_until_its_test_is_over(run: Path) -> None:
    assert (run / "held").read_text() == "True"
    assert not is_locked(run)


def test_files_of_two_tests_are_not_mixed(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mbls.callbacks.results.PATIENCE", 0)
    before = (run / "test/best/cases.csv").stat().st_mtime_ns
    with lock_folder(run / "test/best"):
        assert main(["evaluate", str(run)]) == 1
    told = capfd.readouterr().err
    assert f"Another process is at work in run folder {run}/test/best (process" in told
    assert (run / "test/best/cases.csv").stat().st_mtime_ns == before


KILLED_WHILE_IT_DRAWS = """
import os, signal, sys
import mbls.evaluation.results as results
from mbls.cli import main
results.write_figures = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
main(sys.argv[1:])
"""


def test_a_test_that_is_killed_leaves_the_results_before(run: Path) -> None:
    files = [run / "test/best" / name for name in ("metrics.json", "cases.csv", "bins.npz")]
    before = [file.stat().st_mtime_ns for file in files]
    words = [sys.executable, "-c", KILLED_WHILE_IT_DRAWS, "evaluate", str(run)]
    env = os.environ | {"PYTHONPATH": str(tiny.ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=env, cwd=tiny.ROOT, capture_output=True, timeout=200)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [file.stat().st_mtime_ns for file in files] == before


@pytest.mark.usefixtures("no_figures")
def test_evaluate_gives_the_run_s_own_digits(run: Path) -> None:
    best = run / "test" / "best"
    before = {name: (best / name).read_bytes() for name in ("metrics.json", "cases.csv")}
    card = (run / "run.json").read_bytes()
    assert main(["evaluate", str(run)]) == 0
    assert {name: (best / name).read_bytes() for name in before} == before
    assert not list(best.glob("*.incoming"))  # which the killed test left
    assert main(["evaluate", str(run), "--ckpt", "last"]) == 0
    assert (run / "test" / "last" / "metrics.json").is_file()
    assert (run / "run.json").read_bytes() == card


def test_a_test_without_pictures_leaves_none_of_another(run: Path) -> None:
    folder = run / "test" / "best"
    assert (folder / "worst.npz").is_file()
    assert main(["evaluate", str(run), "--results.pictures", "0"]) == 0
    assert not list(folder.glob("worst.*"))


def test_a_second_run_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    for _ in range(2):
        assert tiny.fit(*tiny.words(tmp_path, epochs=1)) == 0
    parent = tiny.run_folder(tmp_path).parent
    assert sorted(path.name for path in parent.iterdir()) == ["seed0", "seed0-2"]


@pytest.mark.usefixtures("no_figures")
def test_mirrorings_that_were_never_trained_on_are_told_and_kept_apart(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), "--mirror", "1,0"]) == 0
    told = capfd.readouterr().out
    assert "mirrorings along the axes 0, 1, of which this network never saw one" in told
    assert "augmentation.flip is None" in told
    assert main(["evaluate", str(run), "--mirror", "1"]) == 0
    assert "mirrorings along axis 1, of which" in capfd.readouterr().out
    for axes in ([0, 1], [1]):
        tag = "best-mirrored-" + "".join(map(str, axes))
        metrics = json.loads((run / "test" / tag / "metrics.json").read_text())
        assert metrics["meta"]["mirror"] == axes


def test_a_finished_run_is_not_tested_again_where_it_is_to_go_on(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    results = [run / "test/best/metrics.json", run / "run.json"]
    before = [file.stat().st_mtime_ns for file in results]
    assert main(["train", "--run", str(run), "--resume"]) == 0
    told = capfd.readouterr().out
    assert f"{run} is finished: trained for 2 epochs, and tested." in told
    assert "EPOCHS=3 or more" in told
    assert f"make evaluate RUN={run}" in told
    assert [file.stat().st_mtime_ns for file in results] == before
    assert main(["train", "--run", str(run), "--resume", "--epochs", "1"]) == 1
    assert "max_epochs must be at least the checkpoint's 2 epochs" in capfd.readouterr().err
    assert main(["train", "--run", str(run), "--resume", "--epochs", "3"]) == 0
    assert json.loads(results[1].read_text())["epochs"] == 3
    assert all(file.stat().st_mtime_ns > b for file, b in zip(results, before, strict=True))


def test_a_class_that_is_gone_is_told_where_a_run_prepares_its_data_again(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    text = (run / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("class_path: tests.", "class_path: gone."))
    assert main(["train", "--run", str(folder), "--resume", "--prepare"]) == 2
    assert "there is no module gone" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--accelerator", "gpu"], "accelerator=gpu needs a GPU that torch can use, found torch"),
        (["--trainer.strategy", "ddp_spawn", "--devices", "2"], "trainer.strategy must start"),
    ],
)
def test_hardware_that_is_not_there_is_refused_before_training(
    more: list[str], told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert main(["train", *tiny.words(tmp_path), *more]) == 1
    assert told in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_what_takes_long_or_runs_otherwise_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = tiny.words(tmp_path, epochs=1)
    words[words.index("quick")] = "paper"
    assert tiny.fit(*words, "--precision", "16-mixed") == 0
    told = capfd.readouterr()
    assert f"Training in {tiny.run_folder(tmp_path)}" in told.out
    assert "16-mixed is for GPUs. On the CPU bf16-mixed runs in its place" in told.out
    assert "fp16 is not supported" not in told.err
    assert "may take days" not in told.out  # an epoch does not
    del words[words.index("--epochs") : words.index("--epochs") + 2]
    assert main(["train", *words, "--run", str(tiny.run_folder(tmp_path))]) == 1  # it exists
    told = capfd.readouterr()
    assert "preset paper · epochs 100 ·" in told.out
    assert "PRESET=paper trains for 100 epochs: on a CPU that may take days" in told.out
    assert "EPOCHS=2 PRESET=quick" in told.out
