"""The dispatcher: quick answers, and nothing heavy imported for them."""

import subprocess
import sys

import pytest

from mbls.cli import COMMANDS, main

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
