"""User errors: the command line prints their message without a traceback."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "CalibratorError",
    "CheckpointError",
    "ChoiceError",
    "DecisionError",
    "FirstRankError",
    "Interrupted",
    "MissingExtraError",
    "NonFiniteError",
    "OutputError",
    "PredictionError",
    "ReportError",
    "RunFolderError",
    "SettingError",
    "UsageError",
    "UserError",
    "message_for_user",
    "setting_errors",
]

WORKER_DIED = re.compile(r"DataLoader worker \(pid.*?(killed by signal: \w+|exited unexpectedly)")
RESUME = (
    "Resume a run with make train RUN=FOLDER RESUME=1 (mbls train --run FOLDER --resume); start a "
    "test or a prediction again."
)
UNION = "Does not validate against any of the Union subtypes"  # jsonargparse on a constructor
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class UserError(Exception):
    """Base class of user errors.

    Attributes:
        for_user: True. Another package can set it on its own errors without importing this one.
        of_all_ranks: True if every rank raises the error: only rank 0 prints it.
        status: Exit status of the process.
    """

    for_user = True
    of_all_ranks = False
    status = 1


class ChoiceError(UserError, ValueError):
    """No configuration file has this name."""


class UsageError(ChoiceError):
    """An option or a setting does not exist, or does not accept the value."""

    status = 2


class SettingError(UserError, ValueError):
    """A constructor rejected a setting of the configuration."""


class MissingExtraError(UserError, ImportError):
    """An option needs a package that is not installed."""


class CheckpointError(UserError, ValueError):
    """A checkpoint cannot be used."""


class CalibratorError(UserError, ValueError):
    """A calibrator cannot be fitted, read or applied."""


class DecisionError(UserError, ValueError):
    """A file of thresholds, or a target for them, cannot be used."""


class RunFolderError(UserError, ValueError):
    """A run folder is missing, locked or incomplete."""


class OutputError(UserError, ValueError):
    """An output file cannot be written."""


class PredictionError(UserError, ValueError):
    """Predictions or their labels cannot be read, or are not what they should be."""


class ReportError(UserError, ValueError):
    """The runs cannot be reported."""


class NonFiniteError(UserError, RuntimeError):
    """A loss or a weight became NaN or infinite."""

    of_all_ranks = True


class FirstRankError(UserError, RuntimeError):
    """This rank ends because rank 0 failed."""

    of_all_ranks = True


class Interrupted(UserError, RuntimeError):  # noqa: N818  (not a failure)
    """A signal stopped the run after it had written a checkpoint.

    Args:
        message: Where the run stopped, and how to resume it.
        status: Exit status of the process.
    """

    of_all_ranks = True

    def __init__(self, message: str, *, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


@contextmanager
def setting_errors(*others: type[Exception]) -> Iterator[None]:
    """Turn errors that constructors raise about their settings into SettingError.

    Args:
        others: Exceptions to convert in addition to ValueError.

    Raises:
        SettingError: With the message of the original error.
    """
    refusals: tuple[type[Exception], ...] = (ValueError, *others)
    try:
        yield
    except refusals as error:
        if getattr(error, "for_user", False):
            raise
        origin: BaseException = error
        while str(origin).startswith(UNION) and origin.__cause__ is not None:
            origin = origin.__cause__
        raise SettingError(str(origin)) from error


def message_for_user(error: BaseException) -> str | None:
    """Return the message of a user error, or None for a bug."""
    if getattr(error, "for_user", False):
        return str(error)
    if died := WORKER_DIED.search(str(error)):
        return (
            f"A DataLoader worker died ({died.group(1)}), most often because the system ran out "
            f"of memory: use fewer workers (--data.init_args.num_workers). {RESUME}"
        )
    if isinstance(error, OSError) and error.errno in DISK:
        return (
            f"{error.filename or 'A file'} cannot be written or read ({error.strerror}). Files "
            "written before are complete."
        )
    return None
