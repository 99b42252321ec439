"""Lightning's own callbacks and limits in a run."""

import copy
from pathlib import Path

import pytest
import yaml

from mbls.callbacks import RunFolder
from mbls.runtime.locks import is_locked
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore")
LIGHTNING = "lightning.pytorch.callbacks."
CALLBACKS: dict[str, dict[str, str]] = {
    "ModelCheckpoint": {"save_last": "true", "monitor": "val/dice", "mode": "max"},
    "EarlyStopping": {"monitor": "train/loss", "patience": "5"},
    "Timer": {"duration": "00:01:00:00"},
    "StochasticWeightAveraging": {"swa_lrs": "0.01", "swa_epoch_start": "1"},
    "LearningRateMonitor": {},
}


def test_callbacks_of_lightning_are_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    more = [
        arg
        for name, settings in CALLBACKS.items()
        for arg in tiny.callback(LIGHTNING + name, **settings)
    ]
    assert tiny.fit(*tiny.train_args(tmp_path, epochs=2), *more) == 0
    run = tiny.run_folder(tmp_path)
    own = run / "checkpoints" / "own"  # its last.ckpt is not ours
    before = {name: (run / f"checkpoints/{name}.ckpt").stat().st_ino for name in ("last", "best")}
    assert (own / "last.ckpt").is_file()
    assert not (tmp_path / "checkpoints").exists()
    assert not (tmp_path / "lightning_logs").exists()
    callbacks = yaml.safe_load((run / "config.yaml").read_text())["trainer"]["callbacks"]
    settings = {each["class_path"].rpartition(".")[2]: each["init_args"] for each in callbacks}
    assert settings["Timer"]["interval"] == "step"
    assert settings["StochasticWeightAveraging"]["device"] == "cpu"
    assert tiny.fit("--run", str(run), "--resume", "--epochs", "3") == 0
    assert (run / "checkpoints/last.ckpt").stat().st_ino != before["last"]
    assert (own / "last.ckpt").is_file()


def test_copy_of_the_run_folder_callback_has_no_lock(tmp_path: Path) -> None:
    ours = RunFolder(folder=tmp_path)
    ours._lock_folder(tmp_path)
    copy.deepcopy(ours).release()
    assert is_locked(tmp_path)
    ours.release()
    assert not is_locked(tmp_path)


@pytest.mark.parametrize(
    ("args", "steps"),
    [
        (["max_steps", "3"], 3),
        (["limit_train_batches", "1"], 2),
        (["limit_val_batches", "0"], 4),
        (["val_check_interval", "0.5"], 4),
    ],
    ids=lambda args: " ".join(args) if isinstance(args, list) else "",
)
def test_limits(
    args: list[str], steps: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    option, value = args
    assert tiny.fit(*tiny.train_args(tmp_path), f"--trainer.{option}", value) == 0
    run = tiny.run_folder(tmp_path)
    assert (run / "checkpoints/last.ckpt").is_file()
    assert f'"steps": {steps},' in (run / "run.json").read_text()
    assert "] epoch 1/2: train loss " in capsys.readouterr().out


def test_max_time_ends_after_the_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = tiny.train_args(tmp_path, train=20_000)
    assert tiny.fit(*args, "--trainer.max_time", "00:00:00:01") == 0
    assert (tiny.run_folder(tmp_path) / "checkpoints/last.ckpt").is_file()
    out = capsys.readouterr().out
    assert "] epoch 1/2: train loss " in out
    assert "epoch 2/2" not in out
