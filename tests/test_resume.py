"""A run that is stopped and resumed ends as if it had not been."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore")
SETTINGS: dict[str, Any] = {"train": 20, "batch_size": 4}  # five steps an epoch
EPOCHS = 3
PLATEAU = [  # a learning rate that falls after every epoch
    "--model.scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau",
    "--model.scheduler.init_args.mode=max",
    "--model.scheduler.init_args.patience=0",
    "--model.scheduler.init_args.threshold=0.5",
]
BF16 = ["--precision", "bf16-mixed"]
SCALED = ["--trainer.precision", "null", "--trainer.plugins+=tests.tiny.Scaled"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert tiny.fit(*tiny.train_args(folder, epochs=EPOCHS, **SETTINGS), *PLATEAU) == 0
    return tiny.run_folder(folder)


@pytest.mark.parametrize(
    ("stop", "step"),
    [
        ({"epoch": 1, "batch": 2}, 8),
        ({"epoch": 0, "batch": 0, "number": 15}, 1),
        ({"epoch": 1, "batch": 4}, 10),  # its validation comes first
        ({"epoch": 1, "batch": 0, "validation": "true"}, 10),
        ({"epoch": 2, "batch": 4}, 15),  # only the test is left
    ],
    ids=["mid-epoch", "SIGTERM", "last batch", "validation", "last epoch"],
)
def test_stopped_run_is_resumed_to_equal_weights(
    stop: dict[str, Any], step: int, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    args = [*tiny.train_args(tmp_path, epochs=EPOCHS, **SETTINGS), *PLATEAU]
    assert tiny.fit(*args, *tiny.callback("Interrupt", **stop)) in (130, 143)
    run = tiny.run_folder(tmp_path)
    err = capfd.readouterr().err
    assert re.search(rf"step {step}\..*{run}/checkpoints/last.ckpt", err)
    assert f"mbls train --run {run} --resume" in err
    assert tiny.state(run)["global_step"] == step
    assert tiny.resume(run) == 0
    tiny.assert_equal_training(run, whole, "last", "best")
    assert not list(run.parent.glob("seed0-*"))


@pytest.mark.parametrize(
    ("args", "settings", "stop"),
    [
        # lightning took the next epoch for done, counted a step too many, or kept the rate
        ([*PLATEAU, "--trainer.max_steps", "4"], {"epochs": 2},
         {"epoch": 0, "batch": 0, "validation": "true"}),
        # a step is taken when all its gradients are there
        (["--trainer.accumulate_grad_batches", "2"], {"epochs": 1, **SETTINGS},
         {"epoch": 0, "batch": 0}),
        (BF16, {"epochs": 1, "train": 40}, {"epoch": 0, "batch": 6}),
        # after the steps that the scaler skipped, before its next growth
        (SCALED, {"epochs": 1, "train": 40}, {"epoch": 0, "batch": 6}),
    ],
    ids=["max_steps", "accumulation", "bf16", "float16 with a scaler"],
)  # fmt: skip
def test_stopped_run_with_other_settings_is_resumed_to_equal_weights(
    args: list[str], settings: dict[str, Any], stop: dict[str, Any], tmp_path: Path
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert tiny.fit(*tiny.train_args(whole, **settings), *args) == 0
    stopping = tiny.callback("Interrupt", **stop)
    assert tiny.fit(*tiny.train_args(stopped, **settings), *args, *stopping) == 130
    run, whole = tiny.run_folder(stopped), tiny.run_folder(whole)
    before = tiny.state(run)
    assert tiny.resume(run) == 0
    tiny.assert_equal_training(run, whole, "last")
    if "--trainer.max_steps" in args:
        assert tiny.state(run)["global_step"] == 4
    elif "--trainer.accumulate_grad_batches" in args:
        assert (before["global_step"], tiny.state(run)["global_step"]) == (1, 3)
    elif args is BF16:
        assert '"precision": "bf16-mixed"' in (run / "run.json").read_text()
    else:
        assert before["Scaled"]["_growth_tracker"] == 2  # lightning's name for the plugin's state
        assert before["Scaled"]["scale"] < tiny.Scaled.START
        assert tiny.state(run)["Scaled"] == tiny.state(whole)["Scaled"]


def test_resumed_run_keeps_its_number_of_epochs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert tiny.fit(*tiny.train_args(tmp_path, epochs=1)) == 0
    run = tiny.run_folder(tmp_path)
    assert tiny.resume(run, "--epochs", "2") == 0
    assert tiny.resume(run) == 0
    assert tiny.resume(run, "--epochs", "1") == 1
    err = capfd.readouterr().err
    assert ">= the checkpoint's 2 epochs, got 1" in err
    assert "Traceback" not in err
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 2
    assert tiny.state(run)["global_step"] == 4
