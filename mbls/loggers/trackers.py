"""Experiment trackers: Lightning's loggers with their files in the run folder.

Each starts when :class:`~mbls.callbacks.RunFolder` sets its ``folder``; a resumed run continues the
tracker's run. A tracker that fails warns once and is disabled; the run continues.
"""

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
    """A logger of figures."""

    def log_figure(self, name: str, figure: Figure, step: int) -> None:
        """Log a figure under a name such as ``val/reliability``."""


class Tracker:
    """Base of the loggers below: they start late, and their failures do not stop the run."""

    failed = False

    def log_hyperparams(self, *args: Any, **settings: Any) -> None:
        """Log the run's settings."""
        self._try(super().log_hyperparams, *args, **settings)  # type: ignore[misc]

    def log_metrics(self, *args: Any, **settings: Any) -> None:
        """Log the values of a step."""
        self._try(super().log_metrics, *args, **settings)  # type: ignore[misc]

    @rank_zero_only
    def log_figure(self, name: str, figure: Figure, step: int) -> None:
        """Log a figure under a name such as ``val/reliability``."""
        self._try(self._log_figure, name, figure, step)

    def save(self) -> None:
        """Write pending values."""
        self._try(self._save)

    def finalize(self, status: str) -> None:
        """End the tracker's run."""
        self._try(self._finalize, status)

    def _log_figure(self, name: str, figure: Figure, step: int) -> None:
        raise NotImplementedError

    def _save(self) -> None:
        super().save()  # type: ignore[misc]

    def _finalize(self, status: str) -> None:
        super().finalize(status)  # type: ignore[misc]

    def _try(self, method: Callable[..., None], *args: Any, **settings: Any) -> None:
        """Call a method; an error (on rank 0 only) disables the tracker instead of the run."""
        if self.failed:
            return
        try:
            method(*args, **settings)
        except Exception as error:  # network, disk, service
            self.failed = True
            cause = error.__cause__ or error  # Lightning reports any error as an invalid value
            reason = " ".join(f"{type(cause).__name__}: {cause}".split())[:200]
            warnings.warn(
                f"The tracker {type(self).__name__} failed ({reason}) and is disabled for the rest "
                "of this process. The run continues; metrics.csv has all values.",
                stacklevel=2,
            )


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
        """Hide values from ``step`` on, which the resumed run logs again."""
        self._kwargs["purge_step"] = step

    def _save(self) -> None:
        if self._experiment is not None:  # do not create the writer before resume
            self._experiment.flush()

    def _log_figure(self, name: str, figure: Figure, step: int) -> None:
        self.experiment.add_figure(name, figure, step)


class MLflow(Tracker, MLFlowLogger):  # type: ignore[misc]  # decorated methods
    """A run of an MLflow store; its id is in ``<run folder>/mlflow_run``.

    A resumed run logs repeated steps twice. MLflow's telemetry is off by default.

    Args:
        experiment_name: Name of the experiment.
        tracking_uri: The store; None for ``MLFLOW_TRACKING_URI``, or files below ``save_dir``.
        save_dir: Folder of the file store.
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
        if uri is None:  # recent versions of MLflow disable file stores by default
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
            self._run_id, self._run_name = (
                read_id(self.folder / "mlflow_run"),
                run_name(self.folder),
            )
        client = super().experiment
        if self._run_id is not None:
            write_id(self.folder / "mlflow_run", self._run_id)
        return client

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values; a file store cannot have names below ``val/dice``, which is a file."""
        named = {stem(name): value for name, value in metrics.items()}
        super().log_metrics(named, step)

    def _log_figure(self, name: str, figure: Figure, step: int) -> None:
        self.experiment.log_figure(self.run_id, figure, f"{name}/{step:06d}.png")


class WeightsAndBiases(Tracker, WandbLogger):
    """A run of Weights & Biases; its id is in ``<run folder>/wandb_run``.

    Args:
        project: Name of the project.
        offline: If True, keep files below ``<run folder>/wandb`` until ``wandb sync``.
        entity: User or team of the project; None for the account's default.
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
                "id": read_id(self.folder / "wandb_run"),
            }
        run = super().experiment
        if isinstance(getattr(run, "id", None), str):
            write_id(self.folder / "wandb_run", run.id)
        return run

    def _finalize(self, status: str) -> None:
        super()._finalize(status)
        if self._experiment is not None:
            self._experiment.finish(exit_code=0 if status == "success" else 1)
        self._experiment = self.folder = None

    def _log_figure(self, name: str, figure: Figure, step: int) -> None:
        import wandb

        self.log_metrics({name: wandb.Image(figure)}, step)


def stem(name: str) -> str:
    """Return a name with at most one slash.

    Example:
        >>> stem("val/dice/myocardium")
        'val/dice.myocardium'
    """
    head, slash, rest = name.partition("/")
    return head + slash + rest.replace("/", ".")


def run_name(folder: Path) -> str:
    """Return the run's name in a tracker: the last three parts of its folder."""
    return "/".join(folder.resolve().parts[-3:])


def read_id(file: Path) -> str | None:
    """Return the recorded id of the tracker's run, or None."""
    return file.read_text().strip() if file.is_file() else None


def write_id(file: Path, run_id: str) -> None:
    """Record the id of the tracker's run, for a resume."""
    if read_id(file) != run_id:
        file.write_text(run_id + "\n")


def facts(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of run.json that a tracker lists runs by."""
    names = ("dataset", "network", "loss", "preset", "seed", "fold", "data_origin", "commit")
    return {name: card[name] for name in names}
