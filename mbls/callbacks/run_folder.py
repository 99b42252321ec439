"""The run folder: claimed once by rank 0, known to all ranks, never overwritten."""

import shutil
import tempfile
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from mbls.callbacks.checkpoint_search import has_checkpoint, last_checkpoint
from mbls.runtime.errors import CheckpointError, RunFolderError
from mbls.runtime.files import clear_incoming
from mbls.runtime.jobs import job_of, record_job
from mbls.runtime.locks import has_shared_locks, lock_folder, owner_of, unlock
from mbls.runtime.rank_zero import on_rank_zero, share_errors
from mbls.runtime.ranks import print_once

__all__ = ["RunFolder", "claim", "find_callback", "folder_callback", "run_folder"]

C = TypeVar("C", bound=Callback)

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


class Resume(NamedTuple):
    """What this process resumes from.

    Attributes:
        checkpoint: The file, None where the run has none yet.
        error: Why this process could not choose one, raised when all ranks have joined.
    """

    checkpoint: Path | None = None
    error: CheckpointError | RunFolderError | None = None


class RunFolder(Callback):
    """Claim ``<root>/<dataset>/<network>-<loss>/seed<k>[-n]`` when a fit starts.

    Rank 0 locks it, so that no other process writes there, until :meth:`release`, the end of a test
    or that of the process. A ``fast_dev_run`` gets a temporary folder.

    A new run claims and locks its folder in :meth:`setup`. A resumed one is locked before, by
    :meth:`lock_to_resume` when the data is prepared, so that its checkpoint can be chosen, and
    :meth:`setup` compares the choices of all ranks.

    Args:
        root: Where runs are kept.
        dataset: Name of the dataset, network and loss: the stems of their YAML files.
        network: See ``dataset``.
        loss: See ``dataset``.
        folder: A folder of one's own instead. A fit refuses one that exists unless it resumes;
            evaluation wants one that exists.
        resume: Resume in ``folder``, from its last checkpoint.
        tag: Name of the results' folder below ``test/``.
        seed: The run's seed, part of the folder's name.
        job: Id of the batch job that runs it, kept as ``job`` in a new folder: the same job,
            queued again, may start from scratch in ``folder`` where it left no checkpoint.
        without_lock: Resume also where no lock keeps another machine's process out; the job that
            made the folder may always, since a batch system runs it once.
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
        without_lock: bool = False,
    ) -> None:
        self.root, self.dataset, self.network, self.loss = Path(root), dataset, network, loss
        self.folder = None if folder is None else Path(folder)
        self.resume, self.tag, self.seed, self.job = resume, tag, seed, job
        self.without_lock = without_lock
        self._path: Path | None = None
        self._lock: IO[str] | None = None  # of rank 0
        self._temporary = False
        self._resume = Resume()

    @property
    def path(self) -> Path:
        """The folder, once it is claimed.

        Raises:
            RunFolderError: Asked before a fit or an evaluation started.
        """
        if self._path is None:
            raise RunFolderError("The run folder is claimed when a fit or an evaluation starts.")
        return self._path

    def lock_to_resume(self, trainer: Trainer) -> None:
        """Lock the folder to resume in, and only then choose its checkpoint, on rank 0.

        Until then another process may be at its end there, and write a later one.

        Raises:
            RunFolderError: Another process stays at work in the folder, or there is none.
            CheckpointError: No checkpoint can be read.
        """
        if not trainer.is_global_zero:
            return
        folder = self._resolve("fit")
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._lock_folder(folder)
        self._resume = Resume(checkpoint_of(folder))

    def checkpoint(self, trainer: Trainer) -> Path | None:
        """Return the checkpoint to resume from, None where there is none yet.

        Rank 0 has chosen. Ranks that have not joined yet choose themselves, while it has locked
        the folder; :meth:`setup` compares.
        """
        if not dist.is_initialized() and not trainer.is_global_zero:
            try:
                self._resume = Resume(checkpoint_of(self._resolve("fit")))
            except (CheckpointError, RunFolderError) as error:
                self._resume = Resume(error=error)
        chosen: Path | None = trainer.strategy.broadcast(self._resume.checkpoint)
        self._resume = self._resume._replace(checkpoint=chosen)
        return chosen

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Claim the folder on rank 0, and send it to the other ranks."""
        if self._path is not None or (stage in ("validate", "predict") and self.folder is None):
            return  # these two leave nothing in a run folder

        def claimed() -> Path:
            if stage == "fit" and trainer.fast_dev_run:  # type: ignore[attr-defined]
                self._temporary = True
                return Path(tempfile.mkdtemp(prefix="mbls-"))
            folder = self._resolve(stage)
            if stage == "fit":
                self._lock_folder(folder)
            return folder

        self._path = on_rank_zero(trainer, claimed)
        if stage == "fit":
            print_once(f"Training in {self._path}")
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(self._path / "checkpoints" / "own")  # not the working one
        if self.resume and stage == "fit":
            self._compare(trainer)
        for logger in trainer.loggers:
            if stage == "fit" and hasattr(logger, "folder"):
                logger.folder = self._path

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """On resume, cut the logged values to the checkpoint's step."""

        def resume() -> None:
            for logger in trainer.loggers:
                if hasattr(logger, "resume"):
                    logger.resume(trainer.global_step)

        if self.resume:
            on_rank_zero(trainer, resume)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the folder after a test, which may follow a fit."""
        if stage == "test" or self._temporary:
            self.release()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Release the folder."""
        self.release()

    def __getstate__(self) -> dict[str, Any]:
        """Copy without the lock: Lightning's weight averaging copies what refers to this."""
        return self.__dict__ | {"_lock": None, "_temporary": False}

    def release(self) -> None:
        """Unlock the folder, remove a temporary one."""
        if self._lock is not None:
            unlock(self._lock)
            self._lock = None
        if self._temporary and self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)
            self._temporary = False

    def _compare(self, trainer: Trainer) -> None:
        """Refuse to resume from two states: nodes that are started by hand choose apart."""
        ours, error = self._resume
        first = trainer.strategy.broadcast(ours)
        if error is None and first != ours:
            error = RunFolderError(
                f"It would resume from {ours}, rank 0 from {first}: another process was at its end "
                "in the run folder, or nodes see different folders. Start again."
            )
        share_errors(trainer, error)

    def _lock_folder(self, folder: Path) -> None:
        if self._lock is not None:
            return
        if self.resume and not self.without_lock and not self._is_job_of(folder):
            require_lock(folder)
        self._lock = lock_folder(folder, patience=PATIENCE_OF_JOBS if self.job else PATIENCE)
        if self.resume:
            for place in (folder, folder / "checkpoints"):
                clear_incoming(place)

    def _is_job_of(self, folder: Path) -> bool:
        return self.job is not None and job_of(folder) == self.job

    def _resolve(self, stage: str) -> Path:
        if self.folder is None:
            if self.resume and stage == "fit":
                raise RunFolderError(
                    "run.resume needs the folder to resume in: --run.folder FOLDER."
                )
            parent = self.root / self.dataset / f"{self.network}-{self.loss}"
            return claim(parent, f"seed{self.seed}")
        if stage == "fit" and not self.resume:
            try:
                self.folder.mkdir(parents=True)
                if self.job is not None:
                    record_job(self.folder, self.job)
            except FileExistsError:
                if not self._is_job_of(self.folder):
                    raise taken(self.folder) from None
            except OSError as error:
                raise _not_made(self.folder, error) from error
        elif not self.folder.is_dir():
            raise RunFolderError(f"Run folder {self.folder} does not exist.")
        return self.folder


def require_lock(folder: Path) -> None:
    """Refuse to resume in a folder where no lock shows a process on another machine.

    Raises:
        RunFolderError: The file system has no locks, or keeps them to each machine.
    """
    try:
        if has_shared_locks(folder):
            return
    except OSError as error:
        raise RunFolderError(
            f"Run folder {folder} cannot be written to ({error.strerror})."
        ) from error
    owner = owner_of(folder)
    last = f" The last known is {owner}." if owner is not None else ""
    raise RunFolderError(
        f"Run folder {folder} is on a file system without locks, or with locks that other machines "
        f"do not see: another process may be at work there.{last} Two would "
        "spoil its checkpoints. Make sure that there is none, and add --run.without_lock true "
        "(make: ARGS=), or keep runs on a file system with locks (Lustre: mount with -o flock)."
    )


def checkpoint_of(folder: Path) -> Path | None:
    """Return the checkpoint that a run resumes from, None if it has none; print a fallback.

    Raises:
        CheckpointError: None can be read.
    """
    if not has_checkpoint(folder):
        print_once(
            f"{folder} ended before its first checkpoint: it starts again, in the same folder."
        )
        return None
    checkpoint, fault = last_checkpoint(folder)
    if fault:
        print_once(f"{fault} Resuming from {checkpoint} instead.")
    return checkpoint


def taken(folder: Path) -> RunFolderError:
    """Return the error for a run folder that exists where a new one is asked for."""
    return RunFolderError(
        f"Run folder {folder} exists and is never overwritten. Take another name, or resume it "
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
    return find_callback(trainer, RunFolder)


def find_callback(trainer: Trainer, kind: type[C]) -> C:
    """Return the trainer's callback of a class.

    Raises:
        RunFolderError: It has none.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, kind):
            return callback
    raise RunFolderError(f"The trainer has no {kind.__name__} callback; add one.")
