"""A run that is stopped and resumed ends as if it had not been."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore")
SETTINGS: dict[str, Any] = {"train": 20, "batch_size": 4}  # five steps an epoch
EPOCHS = 3
PLATEAU = [  # a rate that falls after every epoch, whatever its Dice
    "--model.scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau",
    "--model.scheduler.init_args.mode=max",
    "--model.scheduler.init_args.patience=0",
    "--model.scheduler.init_args.threshold=0.5",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert tiny.fit(*tiny.words(folder, epochs=EPOCHS, **SETTINGS), *PLATEAU) == 0
    return tiny.run_folder(folder)


def state(run: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


@pytest.mark.parametrize(
    ("words", "step"),
    [
        (tiny.callback("Interrupt", epoch=1, batch=2), 8),  # in mid-epoch
        (tiny.callback("Interrupt", epoch=0, batch=0, number=15), 1),  # SIGTERM, in the first step
        (
            tiny.callback("Interrupt", epoch=1, batch=4),
            10,
        ),  # its validation comes first
        (tiny.callback("Interrupt", epoch=1, batch=0, validation="true"), 10),
        (tiny.callback("Interrupt", epoch=2, batch=4), 15),  # nothing is left to do but the test
    ],
    ids=["mid-epoch", "sigterm", "last batch", "validation", "last epoch"],
)
def test_a_stopped_run_goes_on_to_the_same_end(
    words: list[str], step: int, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base = tiny.words(tmp_path, epochs=EPOCHS, **SETTINGS)
    assert tiny.fit(*base, *PLATEAU, *words) in (130, 143)
    run = tiny.run_folder(tmp_path)
    told = capfd.readouterr().err
    assert f"step {step}. {run}/checkpoints/last.ckpt holds the state" in told
    assert f"mbls train --run {run} --resume" in told
    assert state(run)["global_step"] == step
    assert tiny.fit("--run", str(run), "--resume", "--trainer.callbacks", "null") == 0
    for name in ("last", "best"):
        ours, theirs = state(run, name), state(whole, name)
        for key, value in theirs["state_dict"].items():
            assert torch.equal(ours["state_dict"][key], value), (name, key)
        assert ours["global_step"] == theirs["global_step"]
        assert ours["lr_schedulers"] == theirs["lr_schedulers"]
    assert (run / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    assert not list(run.parent.glob("seed0-*"))


def test_a_number_of_steps_is_reached_from_the_end_of_an_epoch(tmp_path: Path) -> None:
    """Lightning took the next epoch for done, counted a step too many, or kept the rate."""
    words = [*PLATEAU, "--trainer.max_steps", "4"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert tiny.fit(*tiny.words(whole), *words) == 0
    stop = tiny.callback("Interrupt", epoch=0, batch=0, validation="true")
    assert tiny.fit(*tiny.words(stopped), *words, *stop) == 130
    run, whole = tiny.run_folder(stopped), tiny.run_folder(whole)
    assert tiny.fit("--run", str(run), "--resume", "--trainer.callbacks", "null") == 0
    ours, theirs = state(run), state(whole)
    assert ours["global_step"] == theirs["global_step"] == 4
    assert ours["lr_schedulers"] == theirs["lr_schedulers"]
    assert all(torch.equal(ours["state_dict"][k], v) for k, v in theirs["state_dict"].items())
    assert (run / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_a_stop_waits_for_the_gradients_of_its_step(tmp_path: Path) -> None:
    settings = ["--trainer.accumulate_grad_batches", "2"]
    base = [*tiny.words(tmp_path / "stopped", epochs=1, **SETTINGS), *settings]
    assert tiny.fit(*base, *tiny.callback("Interrupt", epoch=0, batch=0)) == 130
    run = tiny.run_folder(tmp_path / "stopped")
    assert state(run)["global_step"] == 1
    assert tiny.fit("--run", str(run), "--resume", "--trainer.callbacks", "null") == 0
    assert tiny.fit(*tiny.words(tmp_path / "whole", epochs=1, **SETTINGS), *settings) == 0
    ours, theirs = state(run), state(tiny.run_folder(tmp_path / "whole"))
    assert ours["global_step"] == theirs["global_step"] == 3
    for key, value in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][key], value), key


@pytest.mark.parametrize(
    "precision",
    [
        ["--precision", "bf16-mixed"],
        ["--trainer.precision", "null", "--trainer.plugins+=tests.tiny.Scaled"],
    ],
    ids=["bf16", "float16 with a scaler"],
)
def test_half_precision_goes_on_to_the_same_bits(precision: list[str], tmp_path: Path) -> None:
    """Stopped when the scaler's next growth is near, after the steps that it skipped."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert tiny.fit(*tiny.words(whole, epochs=1, train=40), *precision) == 0
    stop = tiny.callback("Interrupt", epoch=0, batch=6)
    assert tiny.fit(*tiny.words(stopped, epochs=1, train=40), *precision, *stop) == 130
    run, whole = tiny.run_folder(stopped), tiny.run_folder(whole)
    before = state(run)
    assert tiny.fit("--run", str(run), "--resume", "--trainer.callbacks", "null") == 0
    ours, theirs = state(run), state(whole)
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)
    assert (run / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    if "bf16-mixed" in precision:
        assert '"precision": "bf16-mixed"' in (run / "run.json").read_text()
    else:
        assert before["Scaled"]["_growth_tracker"] == 2  # lightning's name for the plugin's state
        assert before["Scaled"]["scale"] < tiny.Scaled.START
        assert ours["Scaled"] == theirs["Scaled"]


def test_more_epochs_are_kept_for_the_time_the_run_goes_on_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert tiny.fit(*tiny.words(tmp_path, epochs=1)) == 0
    again = ["--run", str(tiny.run_folder(tmp_path)), "--resume"]
    assert tiny.fit(*again, "--epochs", "2") == 0
    assert tiny.fit(*again) == 0
    assert tiny.fit(*again, "--epochs", "1") == 1
    told = capfd.readouterr().err
    assert "at least the checkpoint's 2 epochs, got 1: give EPOCHS=2 or more" in told
    assert "Traceback" not in told
    config = yaml.safe_load((tiny.run_folder(tmp_path) / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 2
    assert state(tiny.run_folder(tmp_path))["global_step"] == 4
