"""The dispatcher: quick answers, and nothing heavy imported for them."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only

from mbls import cli
from mbls.cli import COMMANDS, main
from mbls.runtime.errors import Interrupted

HEAVY = ("torch", "lightning", "monai")


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    status = main(words)
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = answer(capsys, "--help")
    assert status == 0
    assert all(f"  {command} " in text for command in COMMANDS)


def test_an_unknown_command_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = answer(capsys, "evalute")
    assert status == 2
    assert "Did you mean 'evaluate'?" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("train", "--dataset", "acdk", "--loss", "mbls"), "Did you mean 'acdc'?"),
        (("train", "--dataset", "acdc", "--loss", "mlbs"), "Did you mean 'mbls'?"),
        (("train", "--dataset", "acdc", "--loss", "mbls", "--network", "unett"), "'unet'?"),
        (("train", "--dataset", "acdc", "--loss", "mbls", "--preset", "papr"), "'paper'?"),
        (("check-data", "--dataset", "acdk"), "Did you mean 'acdc'?"),
    ],
)
def test_a_mistyped_choice_gets_the_nearest(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], expected: str
) -> None:
    status, text = answer(capsys, *words)
    assert status == 1
    assert expected in text
    assert "There are: " in text


@pytest.mark.parametrize(
    "words", [["--help"], ["trian"], ["train", "--dataset", "acdk", "--loss", "mbls"], ["list"]]
)
def test_a_quick_answer_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from mbls.cli import main; main(sys.argv[1:]); "
        f"print('HEAVY', [m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60
    )
    assert "HEAVY []" in done.stdout, done.stdout + done.stderr


def test_ctrl_c_before_training_ends_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(command: str, args: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("mbls.cli.run", interrupted)
    assert answer(capsys, "train") == (130, "\nInterrupted.\n")


GONE = (
    "[/build/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer "
    "[10.0.0.7]:7061. This is typically caused by a remote worker crashing.",
    "NCCL error in: ProcessGroupNCCL.cpp:3394, remote process exited or there was a network error\n"
    "ncclRemoteError: A call failed possibly due to a network error",
    "Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown?",
)


@pytest.mark.parametrize("said", GONE)
@pytest.mark.parametrize(("rank", "speaks"), [(0, True), (1, True), (2, False)])
def test_a_rank_whose_peer_is_gone_says_so_and_ends_at_once(
    said: str, rank: int, speaks: bool, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def run(command: str, args: list[str]) -> int:
        raise RuntimeError(said)

    monkeypatch.setenv("NODE_RANK", "1")  # with lightning's ranks of a node; rank 2 is its first
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(rank_zero_only, "rank", rank)
    monkeypatch.setattr(cli, "run", run)
    monkeypatch.setattr(cli, "end_at_once", sys.exit)  # in place of the end of this process
    with pytest.raises(SystemExit, match="1"):
        main(["train"])
    told = capsys.readouterr().err
    assert ("Another process of this job ended or was killed (" in told) == speaks
    assert "gloo" not in told


def test_a_rank_whose_work_is_done_leaves_the_others_before_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or else gloo's threads may abort it."""
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


def test_a_rank_that_failed_alone_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: str, args: list[str]) -> int:
        raise Interrupted("Stopped.", status=143)

    monkeypatch.setattr(cli, "run", fail)
    monkeypatch.setattr(cli, "end_at_once", sys.exit)
    assert main(["train"]) == 143
    monkeypatch.setattr(cli, "in_job", lambda: True)
    with pytest.raises(SystemExit, match="143"):
        main(["train"])


def test_a_fault_of_the_code_on_a_rank_ends_it_at_once_with_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "run", lambda command, args: {}["a fault"])
    with pytest.raises(KeyError):
        main(["train"])
    monkeypatch.setattr(cli, "in_job", lambda: True)
    monkeypatch.setattr(cli, "end_at_once", sys.exit)
    with pytest.raises(SystemExit, match="1"):
        main(["train"])
    assert "KeyError: 'a fault'" in capsys.readouterr().err
