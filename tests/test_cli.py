"""The dispatcher: quick answers, and nothing heavy imported for them."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch.distributed as dist

from mbls import cli
from mbls.cli import COMMANDS, main
from mbls.runtime.errors import CheckpointError, Interrupted

HEAVY = ("torch", "lightning", "monai")


def answer(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    status = main(args)
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = answer(capsys, "--help")
    assert status == 0
    assert all(f"  {command} " in text for command in COMMANDS)


def test_unknown_command_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = answer(capsys, "evalute")
    assert status == 2
    assert "Did you mean 'evaluate'?" in text


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("train", "--dataset", "acdk", "--loss", "mbls"), "Did you mean 'acdc'?"),
        (("train", "--dataset", "acdc", "--loss", "mlbs"), "Did you mean 'mbls'?"),
        (("train", "--dataset", "acdc", "--loss", "mbls", "--network", "unett"), "'unet'?"),
        (("train", "--dataset", "acdc", "--loss", "mbls", "--preset", "papr"), "'paper'?"),
        (("check-data", "--dataset", "acdk"), "Did you mean 'acdc'?"),
    ],
)
def test_mistyped_choice_gets_the_nearest(
    capsys: pytest.CaptureFixture[str], args: tuple[str, ...], expected: str
) -> None:
    status, text = answer(capsys, *args)
    assert status == 1
    assert expected in text
    assert "There are: " in text


@pytest.mark.parametrize(
    "args", [["--help"], ["trian"], ["train", "--dataset", "acdk", "--loss", "mbls"], ["list"]]
)
def test_quick_answer_imports_nothing_heavy(args: list[str]) -> None:
    code = (
        "import sys; from mbls.cli import main; main(sys.argv[1:]); "
        f"print('HEAVY', [m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60
    )
    assert "HEAVY []" in done.stdout, done.stdout + done.stderr


def test_ctrl_c_before_training_ends_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(command: str, args: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("mbls.cli.run", interrupted)
    assert answer(capsys, "train") == (130, "\nInterrupted.\n")


def test_finished_rank_leaves_the_process_group_at_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise gloo's threads may abort it."""
    at_exit: list[Callable[[], None]] = []
    monkeypatch.setattr(cli, "run", lambda command, args: 0)
    monkeypatch.setattr("atexit.register", at_exit.append)
    monkeypatch.setattr("atexit.unregister", lambda call: at_exit.clear())
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert main(["train"]) == main(["evaluate"]) == 0
        assert dist.is_initialized()  # for a command that follows
        for call in at_exit:
            call()
        assert not dist.is_initialized()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


class Ended(BaseException):
    """In place of the end of this process."""


@pytest.mark.parametrize(
    ("error", "rank", "status", "printed"),
    [
        (Interrupted("Stopped.", status=143), 0, 143, "mbls train: Stopped."),
        (Interrupted("Stopped.", status=143), 1, 0, ""),  # rank 0 reports it
        (CheckpointError("Damaged."), 1, 1, "mbls train: Rank 1 on "),
        (KeyError("a fault"), 1, 1, "KeyError: 'a fault'"),
    ],
)
def test_failed_rank_reports_and_ends_at_once(
    error: Exception, rank: int, status: int, printed: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(command: str, args: list[str]) -> int:
        raise error

    def ended(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(cli, "run", fail)
    assert main(["train"]) == getattr(error, "status", 1)
    capsys.readouterr()
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setattr(cli, "in_job", lambda: True)
    monkeypatch.setattr("mbls.runtime.ranks.in_job", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: rank)
    monkeypatch.setattr("os._exit", ended)
    with pytest.raises(Ended, match=str(status)):
        main(["train"])
    err = capsys.readouterr().err
    assert printed in err
    assert bool(err) == bool(printed)
    assert ("Traceback" in err) == isinstance(error, KeyError)
