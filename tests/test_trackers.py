"""Trackers in addition to metrics.csv, in local files: TensorBoard, MLflow, Weights & Biases."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mbls.loggers.metrics_csv import read_rows
from mbls.loggers.trackers import TensorBoard, stem
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore")


def stopped_and_resumed(folder: Path, *args: str) -> Path:
    """Train an epoch with a tracker and diagrams, resume for a second; return the run folder."""
    given = [*tiny.train_args(folder, epochs=1), *args, "--diagrams.every_n_epochs", "1"]
    assert tiny.fit(*given) == 0
    run = tiny.run_folder(folder)
    assert tiny.fit("--run", str(run), "--resume", "--epochs", "2") == 0
    return run


def values_of(rows: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(int(row["step"]), pytest.approx(float(row[name]))) for row in rows]


def test_tensorboard_has_the_values_of_metrics_csv_and_the_diagrams(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    args = [*tiny.train_args(tmp_path), "--logger", "tensorboard", "--diagrams.every_n_epochs", "1"]
    assert tiny.fit(*args) == 0
    run = tiny.run_folder(tmp_path)
    (run / "checkpoints" / "previous.ckpt").replace(run / "checkpoints" / "last.ckpt")
    assert tiny.fit("--run", str(run), "--resume") == 0  # repeats the second epoch
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    rows = read_rows(run / "metrics.csv")
    for name in ("train/loss", "val/dice", "val/dice/ring", "val/ece"):
        shown = [(event.step, event.value) for event in events.Scalars(name)]
        assert shown == values_of(rows, name)
    assert [event.step for event in events.Images("val/reliability")] == [1, 3]
    assert [event.step for event in events.Scalars("val/dice")] == [1, 3]
    speeds = read_rows(run / "speed.csv")
    assert [event.value for event in events.Scalars("speed/samples_per_second")] == [
        value for _, value in values_of(speeds, "speed/samples_per_second")
    ]
    assert all(0 < float(row["speed/data_wait_share"]) < 1 for row in speeds)
    assert all(float(row["speed/peak_memory_mb"]) > 50 for row in speeds)
    assert not [name for row in rows for name in row if name.startswith("speed/")]


@pytest.mark.slow
def test_mlflow_resumes_its_run(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    from mlflow import MlflowClient

    store = tmp_path / "store"
    args = ["--logger", "mlflow", "--trainer.logger.init_args.save_dir", str(store)]
    run = stopped_and_resumed(tmp_path, *args)
    client = MlflowClient(store.as_uri())
    experiment = client.get_experiment_by_name("mbls")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_id == (run / "mlflow_run").read_text().strip()
    assert found.info.run_name == "blobs/tiny-mbls/seed0"
    assert (found.info.status, found.data.params["loss"]) == ("FINISHED", "mbls")
    history = client.get_metric_history(found.info.run_id, "val/dice.ring")
    rows = read_rows(run / "metrics.csv")
    assert [(each.step, each.value) for each in history] == values_of(rows, "val/dice/ring")
    diagrams = client.list_artifacts(found.info.run_id, "val/reliability")
    assert [Path(each.path).name for each in diagrams] == ["000001.png", "000003.png"]


@pytest.mark.slow
def test_weights_and_biases_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs the extra wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    args = ["--logger", "wandb", "--trainer.logger.init_args.offline", "true"]
    run = stopped_and_resumed(tmp_path, *args)
    number = (run / "wandb_run").read_text().strip()
    assert len(list((run / "wandb").glob(f"offline-run-*-{number}"))) == 2


def test_missing_tracker_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Callable[..., str]
) -> None:
    monkeypatch.setattr("mbls.config.choices.importlib.util.find_spec", lambda name: None)
    error = refusal("train", *tiny.train_args(tmp_path), "--logger", "tensorboard")
    assert "package tensorboard: pip install" in error
    assert "-e '.[tensorboard]'" in error
    assert not tiny.run_folder(tmp_path).exists()


def test_misspelled_tracker_gets_the_nearest_name(refusal: Callable[..., str]) -> None:
    error = refusal("train", "--dataset", "acdc", "--loss", "ce", "--logger", "tensorbord")
    assert "logger 'tensorbord'. Did you mean 'tensorboard'" in error


def test_tracker_writes_nothing_without_a_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    monkeypatch.chdir(tmp_path)
    logger = TensorBoard()
    logger.log_metrics({"x": 1.0}, 0)
    logger.save()
    assert not os.listdir(tmp_path)  # noqa: PTH208
    assert stem("val/dice") == "val/dice"


class Broken:
    """A service that is not there."""

    def __init__(self) -> None:
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        self.calls += 1
        raise OSError(28, "No space left on device")


def test_failing_tracker_is_reported_once_and_stops_nothing(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    logger, broken = TensorBoard(), Broken()
    logger.folder, logger._experiment = tmp_path, broken
    with pytest.warns(UserWarning, match=r"TensorBoard failed \(OSError: .*No space left"):
        logger.log_metrics({"x": 1.0}, 0)
    assert broken.calls == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logger.log_figure("x", None, 0)
        logger.log_hyperparams({"loss": "ce"})
        logger.save()
        logger.finalize("success")
    assert broken.calls == 1
