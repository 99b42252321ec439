"""The main job on a datamodule without files: the run folder, and digits that can be had again."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mbls.cli import main
from mbls.locks import hold, is_held
from mbls.metrics import from_bins
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
    assert not is_held(run)


def test_files_of_two_tests_are_not_mixed(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mbls.callbacks.results.PATIENCE", 0)
    before = (run / "test/best/cases.csv").stat().st_mtime_ns
    with hold(run / "test/best"):
        assert main(["evaluate", str(run)]) == 1
    assert f"Another process is at work in run folder {run}/test/best." in capfd.readouterr().err
    assert (run / "test/best/cases.csv").stat().st_mtime_ns == before


KILLED_WHILE_IT_DRAWS = """
import os, signal, sys
import mbls.metrics.results as results
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
