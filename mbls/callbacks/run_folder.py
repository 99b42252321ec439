"""The run folder: created and locked by rank 0, shared with all ranks, never overwritten."""

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

# Seconds to wait for the lock of an ending process: data workers outlive a killed parent by five
# seconds, and a file server detects a lost node later.
PATIENCE, PATIENCE_OF_JOBS = 15.0, 120.0


def claim(parent: Path, name: str) -> Path:
    """Create ``parent/name``, or ``parent/name-2``, ``-3``, ... if it exists, and return it.

    ``mkdir`` is atomic, so two jobs never get the same folder.
    """
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
        except FileExistsError:
            if not parent.is_dir():
                raise RunFolderError(f"{parent} must be a folder, found a file.") from None
            number += 1
        except OSError as error:
            raise _not_created(folder, error) from error
        else:
            return folder


def _not_created(folder: Path, error: OSError) -> RunFolderError:
    return RunFolderError(
        f"Run folder {folder} cannot be created ({error.strerror}). Choose another with RUN=FOLDER "
        "(--run), or --run.root FOLDER for all runs."
    )


class Resume(NamedTuple):
    """The checkpoint that this process resumes from.

    Attributes:
        checkpoint: The file, or None if the run has none yet.
        error: Error of this process, which is raised when all ranks have joined.
    """

    checkpoint: Path | None = None
    error: CheckpointError | RunFolderError | None = None


class RunFolder(Callback):
    """Create ``<root>/<dataset>/<network>-<loss>/seed<k>[-n]`` when a fit starts.

    Rank 0 locks the folder until :meth:`release`, the end of a test, or the end of the process.
    ``fast_dev_run`` uses a temporary folder.

    A new run creates and locks its folder in :meth:`setup`. A resumed run is locked earlier, by
    :meth:`lock_to_resume` when the data is prepared, before its checkpoint is chosen;
    :meth:`setup` then compares the choices of all ranks.

    Args:
        root: Folder of all runs.
        dataset: Name of the dataset, the stem of its YAML file.
        network: Name of the network.
        loss: Name of the loss.
        folder: The run folder, instead of the one above. A fit needs a new folder unless it
            resumes; evaluation needs an existing one.
        resume: If True, resume in ``folder`` from its last checkpoint.
        tag: Name of the results' folder below ``test/``.
        seed: Seed, part of the folder's name.
        job: Id of the batch job, recorded as ``job`` in a new folder. The same job, when requeued,
            may start from scratch in ``folder`` if there is no checkpoint.
        without_lock: If True, resume even if locks do not work across machines. The job that
            created the folder always may, since a batch system runs it only once.
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
        """The run folder.

        Raises:
            RunFolderError: No fit or evaluation has started yet.
        """
        if self._path is None:
            raise RunFolderError(
                "The run folder exists only after a fit or evaluation has started."
            )
        return self._path

    def lock_to_resume(self, trainer: Trainer) -> None:
        """On rank 0, lock the folder to resume in, and then choose its checkpoint.

        Without the lock, an ending process might still write a later checkpoint.

        Raises:
            RunFolderError: Another process keeps the folder locked, or it does not exist.
            CheckpointError: No checkpoint can be read.
        """
        if not trainer.is_global_zero:
            return
        folder = self._resolve("fit")
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._lock_folder(folder)
        self._resume = Resume(checkpoint_of(folder))

    def checkpoint(self, trainer: Trainer) -> Path | None:
        """Return the checkpoint to resume from, or None if there is none yet.

        Rank 0 has chosen it. Ranks that have not joined yet choose one themselves while the folder
        is locked; :meth:`setup` compares their choices.
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
        """Create and lock the folder on rank 0, and broadcast its path."""
        if self._path is not None or (stage in ("validate", "predict") and self.folder is None):
            return  # these two write nothing to a run folder

        def create() -> Path:
            if stage == "fit" and trainer.fast_dev_run:  # type: ignore[attr-defined]
                self._temporary = True
                return Path(tempfile.mkdtemp(prefix="mbls-"))
            folder = self._resolve(stage)
            if stage == "fit":
                self._lock_folder(folder)
            return folder

        self._path = on_rank_zero(trainer, create)
        if stage == "fit":
            print_once(f"Training in {self._path}")
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(self._path / "checkpoints" / "own")  # not the working folder
        if self.resume and stage == "fit":
            self._compare(trainer)
        for logger in trainer.loggers:
            if stage == "fit" and hasattr(logger, "folder"):
                logger.folder = self._path

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """On resume, truncate the logged values to the checkpoint's step."""

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
        """Return the state without the lock: Lightning's weight averaging copies the callback."""
        return self.__dict__ | {"_lock": None, "_temporary": False}

    def release(self) -> None:
        """Unlock the folder, and remove a temporary one."""
        if self._lock is not None:
            unlock(self._lock)
            self._lock = None
        if self._temporary and self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)
            self._temporary = False

    def _compare(self, trainer: Trainer) -> None:
        """Raise if ranks chose different checkpoints: nodes started by hand choose separately."""
        ours, error = self._resume
        first = trainer.strategy.broadcast(ours)
        if error is None and first != ours:
            error = RunFolderError(
                f"This rank would resume from {ours}, rank 0 from {first}: another process was "
                "still writing to the run folder, or nodes see different folders. Try again."
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
                raise RunFolderError("run.resume needs the run folder: --run.folder FOLDER.")
            parent = self.root / self.dataset / f"{self.network}-{self.loss}"
            return claim(parent, f"seed{self.seed}")
        if stage == "fit" and not self.resume:
            try:
                self.folder.mkdir(parents=True)
                if self.job is not None:
                    record_job(self.folder, self.job)
            except FileExistsError:
                if not self._is_job_of(self.folder):
                    raise RunFolderError(
                        f"Run folder {self.folder} exists and is never overwritten. Choose another "
                        "name, or resume it with RESUME=1 (--resume)."
                    ) from None
            except OSError as error:
                raise _not_created(self.folder, error) from error
        elif not self.folder.is_dir():
            raise RunFolderError(f"Run folder {self.folder} does not exist.")
        return self.folder


def require_lock(folder: Path) -> None:
    """Check that locks in a folder work across machines.

    Raises:
        RunFolderError: The file system has no locks, or only local ones.
    """
    try:
        if has_shared_locks(folder):
            return
    except OSError as error:
        raise RunFolderError(
            f"Run folder {folder} cannot be written ({error.strerror})."
        ) from error
    owner = owner_of(folder)
    last = f" (last known: {owner})" if owner is not None else ""
    raise RunFolderError(
        f"Run folder {folder} is on a file system without locks, or with locks that other machines "
        f"do not see: another process may be using it{last}, and two would corrupt its "
        "checkpoints. Make sure that there is none and add --run.without_lock true (make: ARGS=), "
        "or keep runs on a file system with locks (Lustre: mount with -o flock)."
    )


def checkpoint_of(folder: Path) -> Path | None:
    """Return the checkpoint that a run resumes from, or None if it has none; print a fallback.

    Raises:
        CheckpointError: No checkpoint can be read.
    """
    if not has_checkpoint(folder):
        print_once(f"{folder} has no checkpoint yet: the run starts from scratch in this folder.")
        return None
    checkpoint, fault = last_checkpoint(folder)
    if fault:
        print_once(f"{fault} Resuming from {checkpoint} instead.")
    return checkpoint


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
        RunFolderError: There is none.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, kind):
            return callback
    raise RunFolderError(f"The trainer has no {kind.__name__} callback; add one.")
