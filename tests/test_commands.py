"""LightningCLI's own commands on layered files, and errors before a run."""

import json
import os
import re
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from mbls.cli import main
from mbls.loggers.metrics_csv import read_rows
from tests import few, processes, tiny

pytestmark = pytest.mark.filterwarnings("ignore")


def test_fit_validate_test_and_predict_from_layered_files(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], refusal: Callable[..., str]
) -> None:
    args = tiny.fit_args(*few.acdc_args(tmp_path))[1:]
    assert sum(arg.startswith("--config=") for arg in args) == 5
    assert main(["fit", *args]) == 0
    run = tiny.run_folder(tmp_path)
    best = ["--ckpt_path", str(run / "checkpoints/best.ckpt")]
    capfd.readouterr()
    assert main(["validate", *args, *best]) == 0
    logged = read_rows(run / "metrics.csv")[0]
    assert f"{float(logged['val/dice']):.6f}"[:7] in capfd.readouterr().out
    assert [path.name for path in run.parent.iterdir()] == ["seed0"]  # validate makes none
    assert main(["test", *args, *best, "--run.folder", str(run), "--run.tag", "again"]) == 0
    assert (run / "test/again/metrics.json").is_file()
    output = tmp_path / "out"
    assert main(["predict", *args, *best, "--predictions.output", str(output)]) == 0
    assert len(list(output.iterdir())) == 3
    assert [path.name for path in run.parent.iterdir()] == ["seed0"]
    assert "predict needs a folder" in refusal("predict", *args, *best)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--trainer.max_epoch", "3"], "trainer.max_epoch"),
        (["--model.loss", "mbls.losses.MarginLos"], "MarginLos"),
        (["--model.loss", "mbls.losses.LabelSmoothingLoss"], "its alpha label_smoothing"),
        (["--model.loss.init_args.margn", "3"], "margn"),
        (["--data.init_args.sise", "3"], "sise"),
        (
            ["--data", "datamodules.ACDCDataModule", "--data.init_args.division.val_fracton", "0"],
            "'val_fracton' of division. Did you mean 'val_fraction'",
        ),
        (
            ["--data", "datamodules.ACDCDataModule", "--data.init_args.samplig.crop", "random"],
            "Did you mean 'sampling'",
        ),
        (["--los", "ce"], "--los. Did you mean --loss"),
        (["--loss.margin", "8"], "--loss.margin.* LOSS=mbls:margin=8"),
        (["--loss", "mbls:margn=8"], "'margn' of loss mbls. Did you mean 'margin'"),
        (["--trainer.precision", "half"], "value: half"),
        (["--trainer.enable_checkpointing", "false"], "enable_checkpointing must not be false"),
        (["--trainer.overfit_batches", "2"], "overfit_batches must be 0.*SPLIT=file.json"),
        (["--trainer.overfit_batches", "0.5"], "overfit_batches must be 0"),
        (["--trainer.limit_train_batches", "0"], "limit_train_batches must be > 0, got 0"),
        (["--trainer.barebones", "true"], "barebones must be false"),
        (["--trainer.strategy", "ddp_spawn", "--devices", "2"], "trainer.strategy must start"),
        (["--accelerator", "gpu"], "accelerator=gpu needs a GPU .* found torch"),
        (
            ["--data", "datamodules.ACDCDataModule", "--data.init_args.spacing", "[2, 2]"],
            "data.init_args.spacing is now data.init_args.preprocessing.spacing.",
        ),
    ],
    ids=lambda arg: " ".join(arg) if isinstance(arg, list) else "",
)
def test_wrong_argument_is_refused_before_training(
    more: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert main(["train", *tiny.train_args(tmp_path), *more]) in (1, 2)
    output = capfd.readouterr().err
    assert re.search(message, output, re.DOTALL)
    assert "Traceback" not in output
    assert len(output.splitlines()) < 8  # no usage before it
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainer:\n  max_epoch: 3\n",
         "'trainer.max_epoch' (FILE, line 2). Did you mean 'trainer.max_epochs'"),
        ("data:\n  class_path: datamodules.ACDCDataModule\n  init_args:\n    batchsize: 3\n",
         "'batchsize' of datamodules.ACDCDataModule (FILE, line 4). Did you mean 'batch_size'"),
        ("data:\n  class_path: datamodules.ACDCDataModule\n  init_args:\n"
         "    division: {val_fracton: 0.2}\n",
         "'val_fracton' of division (FILE, line 4). Did you mean 'val_fraction'"),
        ("data:\n  class_path: datamodules.ACDCDataModule\n  init_args:\n    window: [0, 1]\n",
         "data.init_args.window (FILE, line 4) is now data.init_args.preprocessing.window."),
        ("data:\n  class_path: datamodules.ACDCDataModule\n  batch_size: 3\n",
         "FILE, line 3: 'batch_size'"),
        ("data:\n  class_path: my_livers.Livers\n",
         "my_livers.Livers (FILE, line 2) cannot be imported: there is no module my_livers"),
        ("data:\n  class_path: needs_more.Livers\n",
         "needs_more.Livers (FILE, line 2) cannot be imported: it needs a_lost_package"),
        ("data:\n  class_path: datamodules.ACDCDatamodule\n",
         "datamodules.ACDCDatamodule (FILE, line 2). Did you mean 'ACDCDataModule'"),
        ("data:\n  class_path: datamodules.ACDCDataModule\n init_args: {}\n", "FILE, line 3: "),
    ],
)  # fmt: skip
def test_error_in_a_file_is_named_with_its_line(
    text: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """File, line and the nearest right name, without jsonargparse's text on types and values."""
    (tmp_path / "needs_more.py").write_text("import a_lost_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "layer.yaml"
    file.write_text(text)
    args = ["train", *tiny.train_args(tmp_path), "--config", str(file)]
    data = ["data", "--dataset", str(file)]
    for command in [args, data] if text.startswith("data") else [args]:
        assert main(command) in (1, 2)
        output = capfd.readouterr().err
        assert message.replace("FILE", str(file)) in output
        assert len(output.splitlines()) < 5
    assert not (tmp_path / "runs").exists()


def test_class_of_the_current_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with ``python -m``; but installed packages go first."""
    (tmp_path / "of_this_folder.py").write_text("raise SystemExit(7)")
    (tmp_path / "yaml.py").write_text("raise SystemExit(8)")
    (tmp_path / "data.yaml").write_text("data: {class_path: of_this_folder.Data}")
    command = [str(processes.MBLS), "data", "--dataset", "data.yaml"]
    assert processes.finish(processes.launch(command, tmp_path)).code == 7


def test_loss_with_settings_has_the_name_of_a_sweep(tmp_path: Path) -> None:
    args = tiny.train_args(tmp_path, epochs=1)
    args[args.index("mbls")] = "mbls:alpha=0.30,margin=8.0"
    assert tiny.fit(*args) == 0
    run = tmp_path / "runs/blobs/tiny-mbls,margin=8,alpha=0.3/seed0"
    assert json.loads((run / "run.json").read_text())["loss"] == "mbls,margin=8,alpha=0.3"
    loss = yaml.safe_load((run / "config.yaml").read_text())["model"]["loss"]["init_args"]
    assert (loss["margin"], loss["alpha"]) == (8.0, 0.3)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data.init_args.division.fold", "7"], "fold must be null or in 0..4, got 7"),
        (["--model.divisor", "0"], "divisor must be >= 1, got 0"),
        (["--epochs", "3", "--trainer.max_epochs=-5"], "`max_epochs`"),
        (["--data.init_args.sampling.patch_size=[2,2]"],
         "patch_size must be > 2 on one axis for UNet, got [2, 2]"),
    ],
)  # fmt: skip
def test_setting_refused_by_a_class_is_named(
    more: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the last line, without jsonargparse's traceback and the other settings."""
    assert main(["train", *few.acdc_args(tmp_path), *more]) == 1
    output = capfd.readouterr().err.strip().splitlines()[-1]
    assert output.startswith(f"mbls train: {message}")
    assert not (tmp_path / "runs").exists()


def test_default_run_warns_of_nothing(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as printed:
        warnings.simplefilter("always", UserWarning)
        assert tiny.fit(*tiny.train_args(tmp_path, epochs=1)) == 0
    assert not [str(one.message) for one in printed if one.category is not DeprecationWarning]


def test_loggers_and_callbacks_are_added(tmp_path: Path) -> None:
    layer = tmp_path / "more.yaml"
    stopping = {
        "class_path": "lightning.pytorch.callbacks.EarlyStopping",
        "init_args": {"monitor": "val/dice", "patience": 0, "mode": "min", "min_delta": 1.0},
    }
    layer.write_text(yaml.safe_dump({"trainer": {"callbacks+": [stopping]}}))
    args = tiny.train_args(tmp_path, epochs=4)
    assert tiny.fit(
        *args,
        *("--config", str(layer)),
        "--trainer.callbacks+=lightning.pytorch.callbacks.LearningRateMonitor",
        "--trainer.logger+=lightning.pytorch.loggers.CSVLogger",
        f"--trainer.logger.init_args.save_dir={tmp_path / 'second'}",
    ) == 0  # fmt: skip
    run = tiny.run_folder(tmp_path)
    trainer = yaml.safe_load((run / "config.yaml").read_text())["trainer"]
    names = {kind: [entry["class_path"].rpartition(".")[2] for entry in trainer[kind]]
             for kind in ("callbacks", "logger")}  # fmt: skip
    assert names["callbacks"] == ["EarlyStopping", "LearningRateMonitor"]
    assert names["logger"] == ["MetricsCSV", "CSVLogger"]
    assert list((tmp_path / "second").rglob("metrics.csv"))
    rows = read_rows(run / "metrics.csv")
    assert {row["epoch"] for row in rows} == {"0", "1"}  # stopped early
    assert "train/lr" in rows[0]


def test_folder_is_never_overwritten(tmp_path: Path, refusal: Callable[..., str]) -> None:
    args = tiny.train_args(tmp_path)
    taken = tmp_path / "taken"
    taken.mkdir()
    assert f"{taken} exists" in refusal("train", *args, "--run", str(taken))
    assert f"{taken} has no config.yaml" in refusal("train", "--run", str(taken), "--resume")
    assert not list(taken.iterdir())
    (tmp_path / "file").write_text("")
    error = refusal("train", *args, "--run.root", str(tmp_path / "file"))
    assert f"{tmp_path / 'file'}/blobs/tiny-mbls/seed0 cannot be created" in error
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        error = refusal("train", *args, "--run", str(tmp_path / "closed/run"))
        assert "cannot be created (Permission denied)" in error


def test_fast_dev_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    args = [*tiny.train_args(tmp_path), "--trainer.fast_dev_run", "true"]
    assert main(["train", *args]) == 0
    own = "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint"
    assert tiny.fit(*args, own, "--trainer.callbacks.init_args.save_last=true") == 0
    assert tiny.fit(*args, *tiny.callback("Interrupt", epoch=0, batch=0)) == 130
    assert not (tmp_path / "runs").exists()
    assert not list(scratch.iterdir())


def test_without_a_validation_the_last_checkpoint_is_tested(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *tiny.train_args(tmp_path), "--trainer.limit_val_batches", "0"]) == 0
    assert "no best checkpoint (no validation)" in capfd.readouterr().out
    run = tiny.run_folder(tmp_path)
    assert sorted(path.stem for path in (run / "checkpoints").iterdir()) == ["last", "previous"]
    assert [path.name for path in (run / "test").iterdir()] == ["last"]


def test_unlogged_monitor_is_refused_before_training(
    tmp_path: Path, refusal: Callable[..., str]
) -> None:
    error = refusal("train", *tiny.train_args(tmp_path), "--checkpoint.monitor", "val/dise")
    assert "checkpoint.monitor is 'val/dise'" in error
    assert "val/dice, val/dice/core" in error
    assert not (tiny.run_folder(tmp_path) / "metrics.csv").exists()


def test_best_is_by_the_monitor(tmp_path: Path) -> None:
    args = [*tiny.train_args(tmp_path, epochs=3), "--model.optimizer.init_args.lr", "0.05"]
    assert tiny.fit(*args, "--checkpoint.monitor", "val/nll", "--checkpoint.mode", "min") == 0
    run = tiny.run_folder(tmp_path)
    rows = read_rows(run / "metrics.csv")
    best = min(rows, key=lambda row: float(row["val/nll"]))
    state = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    assert state["epoch"] == int(best["epoch"])


def test_validation_of_a_run_keeps_its_metrics_csv(
    tmp_path: Path, refusal: Callable[..., str]
) -> None:
    assert tiny.fit(*tiny.train_args(tmp_path, epochs=1)) == 0
    run = tiny.run_folder(tmp_path)
    config, best = ["--config", str(run / "config.yaml")], str(run / "checkpoints/best.ckpt")
    before = (run / "metrics.csv").read_bytes()
    assert main(["validate", *config, "--ckpt_path", best, "--run.folder", str(run)]) == 0
    assert (run / "metrics.csv").read_bytes() == before
    for command in ("test", "validate", "predict"):
        assert "untrained weights" in refusal(command, *config, "--run.folder", str(run))
    other = tmp_path / "other.ckpt"
    other.write_bytes(Path(best).read_bytes())
    assert "--tag NAME" in refusal("evaluate", str(run), "--ckpt", str(other))
    assert main(["evaluate", str(run), "--ckpt", str(other), "--tag", "other"]) == 0
    assert (run / "test/other/metrics.json").is_file()
    assert "leave out --loss" in refusal("train", "--run", str(run), "--resume", "--loss", "ce")


def test_best_checkpoint_is_written_at_its_validation(tmp_path: Path) -> None:
    """With validations within an epoch, the best is written there and not at the epoch's end."""
    args = tiny.train_args(tmp_path, epochs=1, train=16)
    assert tiny.fit(*args, "--trainer.val_check_interval", "3") == 0  # of 4 batches
    folder = tiny.run_folder(tmp_path) / "checkpoints"
    best, last = (torch.load(folder / f"{n}.ckpt", weights_only=True) for n in ("best", "last"))
    assert (best["global_step"], last["global_step"]) == (3, 4)
