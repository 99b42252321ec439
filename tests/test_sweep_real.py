"""A sweep of real runs: stopped by a signal, resumed, and reported."""

import json
import signal
from pathlib import Path

import pytest

from tests.processes import finish, start, wait_for
from tests.tiny_sweep import run_sweep, sweep_args

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_sweep_is_stopped_resumed_and_reported(tmp_path: Path) -> None:
    args = sweep_args(tmp_path, losses="ce mbls:margin=3", seeds="0", epochs=8)
    first = tmp_path / "runs/acdc/tiny-ce/seed0"
    process = start("benchmark", *args)
    wait_for(lambda: (first / "checkpoints/last.ckpt").exists(), process, limit=400)
    process.send_signal(signal.SIGINT)
    stopped = finish(process, limit=300)
    assert stopped.code == 130, stopped.out + stopped.err
    assert "0 of 2 finished, 1 waiting, 1 stopped" in stopped.out
    assert "Saved" in first.with_name("seed0.log").read_text()

    done = run_sweep(args)
    assert done.code == 0, done.out + done.err
    assert "ce seed 0 resumed; 0 of 2 finished" in done.out
    assert "2 of 2 finished." in done.out
    card = json.loads((first / "run.json").read_text())
    assert (card["finished"], card["epochs"], card["loss"]) == (True, 8, "ce")
    swept = tmp_path / "runs/acdc/tiny-mbls,margin=3/seed0"
    assert json.loads((swept / "run.json").read_text())["loss"] == "mbls,margin=3"
    assert (tmp_path / "runs/acdc/report/table.md").is_file()

    again = run_sweep(args)
    assert again.code == 0
    assert "2 of 2 finished (2 kept)." in again.out
    other = run_sweep([*args, "--data.init_args.batch_size", "8"])
    assert other.code == 1
    assert "data.batch_size is 16, not 8" in other.err


def test_failed_run_of_a_sweep_is_reported_with_its_output(tmp_path: Path) -> None:
    args = sweep_args(tmp_path, losses="mbls:margin=-1", seeds="0")
    done = run_sweep(args)
    assert done.code == 1
    assert "mbls,margin=-1 seed 0 failed (exit " in done.out
    assert "margin must be >= 0" in done.out
