"""Experiment trackers beside metrics.csv: Lightning's loggers, at home in the run folder.

Each begins when :class:`~mbls.callbacks.RunFolder` gives it its ``folder``, and a resumed run goes
on in the tracker's own run. One that fails is told once and left alone: the run goes on.
"""

import functools
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyExperiment
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.figure import Figure

__all__ = ["FigureLogger", "MLflow", "TensorBoard", "WeightsAndBiases"]


@runtime_checkable
class FigureLogger(Protocol):
    """A logger that takes figures."""

    def log_figure(self, name: str, figure: Figure, step: int) -> None:
        """Show a figure under a name such as ``val/reliability`` at a step."""


def _borne(method: Callable[..., None]) -> Callable[..., None]:
    """Let what a tracker raises, on rank 0 alone, end the tracker and not the run."""

    @rank_zero_only
    @functools.wraps(method)
    def tried(self: "Tracker", *args: Any, **settings: Any) -> None:
        if self.failed:
            return
        try:
            method(self, *args, **settings)
        except Exception as error:  # of a network, a disk, a service
            self.failed = True
            cause = error.__cause__ or error  # lightning takes every error for a wrong value
            reason = " ".join(f"{type(cause).__name__}: {cause}".split())[:200]
            warnings.warn(
                f"The tracker {type(self).__name__} failed ({reason}) and gets nothing more while "
                "this process runs. The run goes on; metrics.csv has every value.",
                stacklevel=2,
            )

    return tried


class Tracker:
    """What the loggers below share: a folder they wait for, and failures that stop no run."""

    failed = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in ("log_hyperparams", "log_metrics", "log_figure", "save", "finalize"):
            setattr(cls, name, _borne(getattr(cls, name)))


class TensorBoard(Tracker, TensorBoardLogger):
    """Event files in ``<run folder>/tensorboard``; a resumed run replaces the steps it repeats."""

    def __init__(self) -> None:
        super().__init__(save_dir="", name="", version="", default_hp_metric=False)
        self.folder: Path | None = None

    @property
    def root_dir(self) -> str:
        """The folder of the event files."""
        return str(Path(self.folder or ".") / "tensorboard")

    @property
    def experiment(self) -> Any:
        """The writer, once there is a run folder."""
        return DummyExperiment() if self.folder is None or self.failed else super().experiment

    def resume(self, step: int) -> None:
        """Hide what was logged from ``step`` on: it is logged again."""
        self._kwargs["purge_step"] = step

    @rank_zero_only
    def save(self) -> None:
        """Flush what was begun: :meth:`resume` comes before that."""
        if self._experiment is not None:
            self._experiment.flush()

    @rank_zero_only
    def log_figure(self, name: str, figure: Figure, step: int) -> None:
        """Add an image."""
        self.experiment.add_figure(name, figure, step)


class MLflow(Tracker, MLFlowLogger):
    """A run of an MLflow store; its number is kept in ``<run folder>/mlflow_run``.

    A resumed run logs the steps again that it repeats. MLflow's telemetry is off unless asked for.

    Args:
        experiment_name: Name of the experiment.
        tracking_uri: The store; None for ``MLFLOW_TRACKING_URI``, or files below ``save_dir``.
        save_dir: Folder of the store where there is no other.
    """

    def __init__(
        self,
        *,
        experiment_name: str = "mbls",
        tracking_uri: str | None = None,
        save_dir: str = "runs/mlflow",
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:  # MLflow's newest wants to be asked for a store of files
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = Path(save_dir).resolve().as_uri()
        super().__init__(experiment_name=experiment_name, tracking_uri=uri)
        self.folder: Path | None = None

    @property
    def experiment(self) -> Any:
        """The client, once there is a run folder."""
        if self.folder is None or self.failed:
            return DummyExperiment()
        if not self._initialized:
            self._run_id, self._run_name = kept(self.folder / "mlflow_run"), run_name(self.folder)
        client = super().experiment
        if self._run_id is not None:
            keep(self.folder / "mlflow_run", self._run_id)
        return client

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values; in a store of files nothing can be below ``val/dice``, which is a file."""
        named = {stem(name): value for name, value in metrics.items()}
        super().log_metrics(named, step)

    @rank_zero_only
    def log_figure(self, name: str, figure: Figure, step: int) -> None:
        """Add an artifact, ``<name>/<step>.png``."""
        self.experiment.log_figure(self.run_id, figure, f"{name}/{step:06d}.png")


class WeightsAndBiases(Tracker, WandbLogger):
    """A run of Weights & Biases; its number is kept in ``<run folder>/wandb_run``.

    Args:
        project: Name of the project.
        offline: Whether files are kept below ``<run folder>/wandb`` until ``wandb sync``.
        entity: Whose project it is; None for the account's own.
    """

    def __init__(
        self, *, project: str = "mbls", offline: bool = False, entity: str | None = None
    ) -> None:
        super().__init__(project=project, offline=offline, entity=entity)
        self.folder: Path | None = None

    @property
    def experiment(self) -> Any:
        """The run, once there is a run folder."""
        if self.folder is None or self.failed:
            return DummyExperiment()
        if self._experiment is None:
            self._wandb_init |= {
                "dir": str(self.folder),
                "name": run_name(self.folder),
                "id": kept(self.folder / "wandb_run"),
            }
        run = super().experiment
        if isinstance(getattr(run, "id", None), str):
            keep(self.folder / "wandb_run", run.id)
        return run

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the run; the process may begin another."""
        super().finalize(status)
        if self._experiment is not None:
            self._experiment.finish(exit_code=0 if status == "success" else 1)
        self._experiment = self.folder = None

    @rank_zero_only
    def log_figure(self, name: str, figure: Figure, step: int) -> None:
        """Add an image."""
        import wandb

        self.log_metrics({name: wandb.Image(figure)}, step)


def stem(name: str) -> str:
    """Return a name with one slash at most.

    Example:
        >>> stem("val/dice/myocardium")
        'val/dice.myocardium'
    """
    head, slash, rest = name.partition("/")
    return head + slash + rest.replace("/", ".")


def run_name(folder: Path) -> str:
    """Return what a tracker calls the run: the last three names of its folder."""
    return "/".join(folder.resolve().parts[-3:])


def kept(file: Path) -> str | None:
    """Return the tracker's number of a run that goes on."""
    return file.read_text().strip() if file.is_file() else None


def keep(file: Path, number: str) -> None:
    """Keep the tracker's number of a run, for the time it goes on."""
    if kept(file) != number:
        file.write_text(number + "\n")


def facts(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a tracker lists runs by, of the content of run.json."""
    names = ("dataset", "network", "loss", "preset", "seed", "fold", "data_origin", "commit")
    return {name: card[name] for name in names}
