"""The run folder: claimed once by rank 0, known to all ranks, never overwritten."""

import time
from pathlib import Path
from typing import IO, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from mbls.errors import RunFolderError
from mbls.jobs import job_of, mark
from mbls.locks import LOCK, NO_LOCKS, try_lock

__all__ = ["RunFolder", "claim", "hold", "run_folder"]

# Seconds to wait for a process that is ending: data workers outlive a killed one by five seconds,
# and a file server hears of a lost node later.
PATIENCE, PATIENCE_OF_JOBS = 15.0, 120.0


def claim(parent: Path, name: str) -> Path:
    """Make ``parent/name``, or ``parent/name-2``, ``-3``, ... where that is taken, and return it.

    ``mkdir`` decides, so two jobs never get one folder.
    """
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
        except FileExistsError:
            if not parent.is_dir():
                raise RunFolderError(f"{parent} is a file; runs need a folder there.") from None
            number += 1
        except OSError as error:
            raise _not_made(folder, error) from error
        else:
            return folder


def _not_made(folder: Path, error: OSError) -> RunFolderError:
    return RunFolderError(
        f"Run folder {folder} cannot be made ({error.strerror}). Choose a place that can be "
        "written to: RUN=FOLDER (--run), or --run.root FOLDER for all runs."
    )


class RunFolder(Callback):
    """Claim ``<root>/<dataset>/<network>-<loss>/seed<k>[-n]`` when a fit starts.

    Args:
        root: Where runs are kept.
        dataset: Name of the dataset, network and loss: the stems of their YAML files.
        network: See ``dataset``.
        loss: See ``dataset``.
        folder: A folder of one's own instead. A fit refuses one that exists unless it resumes;
            evaluation wants one that exists.
        resume: Go on in ``folder``.
        tag: Name of the results' folder below ``test/``.
        seed: The run's seed, part of the folder's name.
        job: Id of the batch job that runs it, kept as ``job`` in a new folder: the same job,
            queued again, may begin anew in ``folder`` where it left no checkpoint.
    """

    def __init__(
        self,
        *,
        root: Path = Path("runs"),
        dataset: str = "data",
        network: str = "network",
        loss: str = "loss",
        folder: Path | None = None,
        resume: bool = False,
        tag: str = "best",
        seed: int = 0,
        job: str | None = None,
    ) -> None:
        self.root, self.dataset, self.network, self.loss = Path(root), dataset, network, loss
        self.folder = None if folder is None else Path(folder)
        self.resume, self.tag, self.seed, self.job = resume, tag, seed, job
        self._path: Path | None = None
        self._lock: IO[str] | None = None  # of rank 0, held during a fit

    @property
    def path(self) -> Path:
        """The folder, once it is claimed.

        Raises:
            RunFolderError: Asked before a fit or an evaluation started.
        """
        if self._path is None:
            raise RunFolderError("The run folder is claimed when a fit or an evaluation starts.")
        return self._path

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Claim the folder on rank 0 and tell the other ranks."""
        if self._path is not None or (stage in ("validate", "predict") and self.folder is None):
            return  # these two leave nothing in a run folder
        answer: Path | RunFolderError | None = None
        if trainer.is_global_zero:
            try:
                answer = self._resolve(stage)
                if stage == "fit":
                    self._lock = hold(answer, patience=PATIENCE_OF_JOBS if self.job else PATIENCE)
            except RunFolderError as error:
                answer = error  # raised on every rank, so that none waits for the others
        answer = trainer.strategy.broadcast(answer)
        if isinstance(answer, RunFolderError):
            raise answer
        self._path = cast(Path, answer)
        for logger in trainer.loggers:
            if stage == "fit" and hasattr(logger, "folder"):
                logger.folder = self._path

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """On resume, cut the logged values to the checkpoint's step."""
        for logger in trainer.loggers:
            if self.resume and hasattr(logger, "resume"):
                logger.resume(trainer.global_step)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the folder."""
        if self._lock is not None:
            self._lock.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Let go of the folder."""
        self.teardown(trainer, pl_module, "fit")

    def _resolve(self, stage: str) -> Path:
        if self.folder is None:
            parent = self.root / self.dataset / f"{self.network}-{self.loss}"
            return claim(parent, f"seed{self.seed}")
        if stage == "fit" and not self.resume:
            try:
                self.folder.mkdir(parents=True)
                if self.job is not None:
                    mark(self.folder, self.job)
            except FileExistsError:
                if self.job is None or job_of(self.folder) != self.job:
                    raise taken(self.folder) from None
            except OSError as error:
                raise _not_made(self.folder, error) from error
        elif not self.folder.is_dir():
            raise RunFolderError(f"Run folder {self.folder} does not exist.")
        return self.folder


def hold(folder: Path, *, patience: float = 0.0) -> IO[str]:
    """Hold a run folder for this process, which writes in it, until the file is closed.

    On a file system without locks nothing is held.

    Args:
        folder: The run folder.
        patience: Seconds to wait for another process to end.

    Raises:
        RunFolderError: Another process writes in the folder, or nobody can.
    """
    end = time.monotonic() + patience
    try:
        file = (folder / LOCK).open("a")
        while not try_lock(file):
            if time.monotonic() >= end:
                file.close()
                raise RunFolderError(
                    f"Another process is at work in run folder {folder}. Wait for its end, or "
                    "start a run of its own."
                )
            time.sleep(1)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return file
        raise RunFolderError(
            f"Run folder {folder} cannot be written to ({error.strerror})."
        ) from error
    return file


def taken(folder: Path) -> RunFolderError:
    """Return the error for a run folder that exists where a new one is asked for."""
    return RunFolderError(
        f"Run folder {folder} exists and is never overwritten. Take another name, or go on in it "
        "with RESUME=1 (--resume)."
    )


def run_folder(trainer: Trainer) -> Path:
    """Return the run folder of a trainer.

    Raises:
        RunFolderError: The trainer has no :class:`RunFolder` callback.
    """
    return folder_callback(trainer).path


def folder_callback(trainer: Trainer) -> RunFolder:
    """Return the :class:`RunFolder` callback of a trainer; see :func:`run_folder`."""
    callbacks = cast(list[Callback], trainer.callbacks)  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, RunFolder):
            return callback
    raise RunFolderError("The trainer has no RunFolder callback; add one.")
