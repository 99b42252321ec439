"""The processes of a sweep: order, failures, signals and output."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from mbls.benchmark import Cell, State, claim, log_file, make_cells, parse_losses
from mbls.benchmark import runner as runner_module
from mbls.benchmark.progress import counts, last_lines, seconds_left
from mbls.benchmark.runner import Entry, Runner, Status
from mbls.benchmark.views import LineView, LiveView, make_view
from mbls.cli import main
from mbls.commands import benchmark
from mbls.runtime.clock import duration
from mbls.runtime.locks import lock_folder
from mbls.runtime.threads import cpus
from tests import fake_run
from tests.processes import ROOT, wait_for

SWEEP = ["--losses", "ce mbls:margin=3", "--seeds", "0 1", "--no-report"]


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take milliseconds for a run, and poll often."""
    monkeypatch.setattr(
        runner_module, "mbls_command", lambda args: [sys.executable, fake_run.__file__, *args]
    )
    monkeypatch.setattr(runner_module, "POLL", 0.01)
    monkeypatch.setattr(runner_module, "POLL_ELSEWHERE", 0.05)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def sweep(
    root: Path, losses: str = "ce mbls:margin=3", seeds: tuple[int, ...] = (0,)
) -> list[Cell]:
    return make_cells(parse_losses(losses), seeds, train_args=["--dataset", "acdc"], root=root)


def mark(cell: Cell, *args: str) -> None:
    cell.folder.parent.mkdir(parents=True, exist_ok=True)
    for name in args:
        (cell.folder.parent / name).touch()


def starts(cell: Cell) -> list[str]:
    path = cell.folder.parent / "starts"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [line.rpartition(" ")[0] for line in lines]


def run(cells: list[Cell], jobs: int = 1) -> tuple[list[Entry], str]:
    console = Console(file=io.StringIO(), width=120)
    view = LineView(console, title="acdc", jobs=jobs, epochs=10)
    entries = Runner(cells, jobs=jobs, view=view).run()
    return entries, console.file.getvalue()


def test_missing_cells_run_and_finished_ones_are_kept(tmp_path: Path) -> None:
    cells = sweep(tmp_path, seeds=(0, 1))
    fake_run.finish(cells[0].folder)
    cells[1].folder.mkdir(parents=True)  # broken
    stopped = cells[2].folder / "checkpoints"
    stopped.mkdir(parents=True)
    (stopped / "last.ckpt").touch()
    entries, shown = run(cells)
    assert [entry.status for entry in entries] == ["kept", "done", "done", "done"]
    assert starts(cells[0]) == ["seed1 resume"]
    assert starts(cells[1]) == ["seed0 train", "seed1 train"]
    assert all(cell.state() is State.FINISHED for cell in cells)
    assert cells[1].folder.with_name("seed0.broken").is_dir()
    assert "ce seed 1 resumed; 2 of 4 finished (1 kept), 1 running, 1 waiting" in shown
    assert "mbls,margin=3 seed 1 done in 0:0" in shown
    assert "Dice 0.5000, ECE 0.5000 PHANTOM" in shown
    assert "4 of 4 finished (1 kept)" in shown
    again, shown = run(cells)
    assert {entry.status for entry in again} == {Status.KEPT}
    assert not shown


def test_failed_run_stops_no_others_and_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = sweep(tmp_path, seeds=(0, 1))
    mark(cells[1], "fail")
    args = ["benchmark", *SWEEP, "--dataset", "acdc", "--root", str(tmp_path)]
    assert main(args) == 1
    out = capsys.readouterr().out
    assert "2 of 4 finished, 2 failed" in out
    after = " ".join(out.partition("2 failed.\n")[2].split())
    assert f"mbls,margin=3 seed 0 failed (exit 1), {log_file(cells[1].folder)}:" in after
    assert after.count("ValueError: margin must be >= 0") == 2
    (cells[1].folder.parent / "fail").unlink()
    assert main(args) == 0  # the same command runs it again
    assert "4 of 4 finished (2 kept)" in capsys.readouterr().out


def test_crash_without_output_is_a_failure(tmp_path: Path) -> None:
    cell = sweep(tmp_path, "ce")[0]
    mark(cell, "crash")
    (entry,), _ = run([cell])
    assert (entry.status, entry.code) == (Status.FAILED, -signal.SIGKILL)


def test_jobs_run_at_a_time_and_share_the_cores(tmp_path: Path) -> None:
    cells = sweep(tmp_path, "ce ls focal")
    for cell in cells:
        mark(cell, "hang")
    started: list[Path] = []

    def stop_two() -> None:
        wait_for(lambda: len(list(tmp_path.rglob("hangs"))) == 2, limit=20)
        time.sleep(0.1)
        started.extend(tmp_path.rglob("starts"))
        os.kill(os.getpid(), signal.SIGTERM)

    with meanwhile(stop_two):
        entries, shown = run(cells, jobs=2)
    assert len(started) == 2  # never three
    assert [entry.status for entry in entries] == ["stopped", "stopped", "waiting"]
    assert "Stopping" in shown
    each = max(1, cpus() // 2)
    assert f"threads {each}\n" in log_file(cells[0].folder).read_text()


def test_ctrl_c_stops_a_sweep_and_the_same_command_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = sweep(tmp_path, "ce")
    mark(cells[0], "hang")
    argv = ["benchmark", "--losses", "ce", "--seeds", "0", "--no-report", "--root", str(tmp_path)]
    argv += ["--dataset", "acdc"]
    with meanwhile(partial(interrupt_when, cells[0].folder.with_name("hangs"))):
        assert main(argv) == 130
    assert "0 of 1 finished, 1 stopped" in capsys.readouterr().out
    assert cells[0].state() is State.STOPPED
    (cells[0].folder.parent / "hang").unlink()
    assert main(argv) == 0
    assert starts(cells[0]) == ["seed0 train", "seed0 resume"]


def broken_sweep(cell: Cell) -> Runner:
    """Return a sweep that failed during its run."""

    class Broken(LineView):
        def tick(self, entries) -> None:
            if cell.folder.with_name("hangs").exists():
                raise OSError("no space left")

    view = Broken(Console(file=io.StringIO()), title="", jobs=1, epochs=1)
    runner = Runner([cell], jobs=1, view=view)
    with pytest.raises(OSError, match="no space left"):
        runner.run()
    return runner


def test_failing_sweep_leaves_no_process(tmp_path: Path) -> None:
    cell = sweep(tmp_path, "ce")[0]
    mark(cell, "hang")
    assert broken_sweep(cell).entries[0].code is not None
    assert cell.state() is State.STOPPED


@pytest.mark.parametrize("signaled", [False, True], ids=["after a while", "with a signal"])
def test_failing_sweep_kills_runs_that_ignore_signals(
    signaled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = sweep(tmp_path, "ce")[0]
    mark(cell, "deaf")
    monkeypatch.setattr(runner_module, "PATIENCE", 30.0 if signaled else 0.1)
    interrupt = partial(interrupt_when, cell.folder.with_name("hangs"), wait=0.5)
    begin = time.monotonic()
    with meanwhile(interrupt) if signaled else contextlib.nullcontext():
        assert broken_sweep(cell).entries[0].code == -signal.SIGKILL
    assert time.monotonic() - begin < 20


@contextlib.contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Do some work in a thread."""
    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()


def interrupt_when(path: Path, wait: float = 0.0) -> None:
    wait_for(path.exists, limit=20)
    time.sleep(wait)
    os.kill(os.getpid(), signal.SIGINT)


def test_second_signal_ends_at_once(tmp_path: Path) -> None:
    cell = sweep(tmp_path, "ce")[0]
    mark(cell, "deaf")
    view = LineView(Console(file=io.StringIO()), title="", jobs=1, epochs=1)
    runner = Runner([cell], jobs=1, view=view)

    def twice() -> None:
        interrupt_when(cell.folder.with_name("hangs"))
        time.sleep(0.2)
        assert runner.entries[0].status is Status.RUNNING  # one signal does not kill
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with meanwhile(twice):
        (entry,) = runner.run()
    assert (entry.status, entry.code) == (Status.STOPPED, -signal.SIGKILL)
    assert signal.getsignal(signal.SIGINT) is before


def test_two_sweeps_run_each_cell_once(tmp_path: Path) -> None:
    code = (
        "import sys, io; from pathlib import Path; from rich.console import Console\n"
        "from tests.test_sweep_runner import sweep, runner_module, fake_run, Runner, LineView\n"
        "runner_module.mbls_command = lambda w: [sys.executable, fake_run.__file__, *w]\n"
        "runner_module.POLL, runner_module.POLL_ELSEWHERE = 0.005, 0.02\n"
        "view = LineView(Console(file=io.StringIO()), title='', jobs=2, epochs=1)\n"
        "cells = sweep(Path(sys.argv[1]), 'ce ls focal', (0, 1, 2))\n"
        "entries = Runner(cells, jobs=2, view=view).run()\n"
        "print(*(e.status.value for e in entries))"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=-1, cwd=ROOT)
        for _ in range(2)
    ]
    shown = [process.communicate(timeout=120)[0].decode().split() for process in both]
    cells = sweep(tmp_path, "ce ls focal", (0, 1, 2))
    for cell in cells:
        assert sorted(starts(cell)) == ["seed0 train", "seed1 train", "seed2 train"]
    for one, other in zip(*shown, strict=True):
        assert {one, other} == {"done", "kept"}


def test_cell_locked_by_another_process_is_waited_for(tmp_path: Path) -> None:
    cell = sweep(tmp_path, "ce")[0]

    def elsewhere() -> None:
        time.sleep(0.3)
        fake_run.finish(cell.folder)
        locked.close()

    locked = contextlib.ExitStack()
    locked.enter_context(claim(cell.folder))
    with meanwhile(elsewhere):
        (entry,), shown = run([cell])
    assert entry.status is Status.KEPT
    assert not starts(cell)
    assert "ce seed 0 kept" in shown


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--losses", "ce", "--epoch", "3"], "--epoch. Did you mean --epochs?"),
        (["--losses", "ce", "--resume"], "option --resume"),
        (["--losses", "ce", "--dataset", "acdk"], "Did you mean 'acdc'?"),
    ],
)
def test_wrong_argument_is_refused_before_anything_runs(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", *args, "--root", str(tmp_path)]) in (1, 2)
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--seeds", "a"], "must be whole numbers"),
        (["--seeds", "1 1"], "must differ"),
        (["--jobs", "0"], "at least 1, got 0"),
    ],
)
def test_wrong_number_is_refused(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["benchmark", *args])
    assert message in capsys.readouterr().err


def test_list_shows_states_and_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "--list", "--root", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 * len(benchmark.DEFAULT_LOSSES.split())
    assert lines[0].startswith("missing   mbls train --loss ce --dataset acdc --preset small ")


def test_default_benchmark_has_its_own_root(capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise it would find the runs of the README's first command, of another preset."""
    assert main(["benchmark", "--list"]) == 0
    assert "--run runs/benchmark/acdc/unet-ce/seed0" in capsys.readouterr().out
    assert main(["benchmark", "--list", "--losses", "ce"]) == 0
    assert "--run runs/acdc/unet-ce/seed0" in capsys.readouterr().out


def test_run_of_other_settings_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cell,) = sweep(tmp_path, "mbls")
    fake_run.finish(cell.folder)
    (cell.folder / "config.yaml").write_text("trainer: {max_epochs: 3}")
    assert main(["benchmark", "--losses", "mbls", "--seeds", "0", "--root", str(tmp_path),
                 "--dataset", "acdc"]) == 1  # fmt: skip
    err = capsys.readouterr().err
    assert f"{cell.folder} has other settings" in err
    assert "trainer.max_epochs is 3, not 10" in err
    assert not starts(cell)


@pytest.mark.parametrize("late", [False, True], ids=["running", "locked after three checks"])
def test_running_training_in_a_folder_is_waited_for(
    late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell,) = sweep(tmp_path, "ce")
    cell.folder.mkdir(parents=True)
    lock = lock_folder(cell.folder)
    assert cell.state() is State.LOCKED
    if late:
        checks = iter((False, False, False))
        monkeypatch.setattr("mbls.benchmark.cells.is_locked", lambda folder: next(checks, True))
    end = threading.Timer(0.5, lambda: (fake_run.finish(cell.folder), lock.close()))
    end.start()
    entries, _ = run([cell])
    assert [entry.status for entry in entries] == ["kept"]
    assert not starts(cell)
    assert not list(cell.folder.parent.glob("*.broken*"))


def test_lock_file_of_a_dead_process_locks_nothing(tmp_path: Path) -> None:
    (cell,) = sweep(tmp_path, "ce")
    cell.folder.mkdir(parents=True)
    lock_folder(cell.folder).close()
    assert cell.state() is State.BROKEN


def entries_of(root: Path) -> list[Entry]:
    cells = sweep(root, "ce mbls:margin=3", (0, 1, 2))
    statuses = [Status.KEPT, Status.FAILED, Status.RUNNING, Status.ELSEWHERE, Status.STOPPED,
                Status.WAITING]  # fmt: skip
    entries = [Entry(cell, status) for cell, status in zip(cells, statuses, strict=True)]
    fake_run.finish(cells[0].folder)
    cells[2].folder.mkdir(parents=True)
    (cells[2].folder / "metrics.csv").write_text("epoch,step,x\n0,4,\n1,9,\n2,14,\n")
    entries[2].started = time.monotonic() - 30
    return entries


def test_live_table(tmp_path: Path) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    view = LiveView(console, title="acdc: 6 runs", jobs=1, epochs=9)
    console.print(view.render(entries_of(tmp_path)))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert max(map(len, lines)) <= 80
    row = next(line for line in lines if line.split()[:1] == ["ce"])
    assert row.split() == ["ce", "0.500", "0.500", "✓", "▶", "30%", "■"]
    assert "mbls,margin=3" in " ".join(lines)
    assert any("PHANTOM: mean Dice, ECE of all voxels" in line for line in lines)
    assert any(re.match(r"▶ ce seed 1  epoch 4 of 9  0:30", line) for line in lines)
    end = " ".join(lines[-3:])
    assert "1 of 6 finished (1 kept), 1 running, 1 waiting, 1 run elsewhere, 1 stopped" in end
    assert re.search(r"ends about (\w+ )?\d\d:\d\d, in 2:5\d", end)  # 70 % of 100 s, and 100 s


def test_live_table_of_a_finished_sweep_is_printed(tmp_path: Path) -> None:
    cell = sweep(tmp_path, "ce")[0]
    fake_run.finish(cell.folder)
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with make_view(console, title="acdc: 1 run", jobs=1, epochs=9) as view:
        assert isinstance(view, LiveView)
        Runner([cell], jobs=1, view=view).run()
    assert "0.500 0.500 ✓" in console.file.getvalue()


def test_expected_end(tmp_path: Path) -> None:
    entries = entries_of(tmp_path)
    unstarted = [entry for entry in entries if entry.status is Status.WAITING]
    assert seconds_left(unstarted, 1, 9) is None
    done = [Entry(entry.cell, Status.DONE, seconds=60.0) for entry in entries[:2]]
    waiting = [Entry(entry.cell) for entry in entries[2:]]
    assert seconds_left(done + waiting, 1, 9) == 240
    assert seconds_left(done + waiting, 2, 9) == 120
    assert seconds_left(done + waiting[:1], 2, 9) == 60
    assert seconds_left(done, 2, 9) == 0


def test_counts_durations_and_last_lines(tmp_path: Path) -> None:
    assert counts(entries_of(tmp_path)).startswith("1 of 6 finished (1 kept), 1 running")
    assert (duration(62), duration(3723)) == ("1:02", "1:02:03")
    log = tmp_path / "log"
    log.write_text("one\n\nbar 1\rbar 2\n" + "more\n" * 3)
    assert last_lines(log, 4) == ["bar 2", "more", "more", "more"]
    assert "cannot be read" in last_lines(tmp_path / "none")[0]
