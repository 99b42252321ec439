"""Errors of the user, whose message the command line shows without a traceback.

``for_user`` marks them, so that other packages can mark theirs without importing this one.
``of_all_ranks`` marks those that rank 0 raises too, and reports: the other ranks do not.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "CheckpointError",
    "ChoiceError",
    "FirstRankError",
    "Interrupted",
    "MissingExtraError",
    "NonFiniteError",
    "OutputError",
    "ReportError",
    "RunFolderError",
    "SettingError",
    "UsageError",
    "message_for_user",
    "setting_errors",
]

WORKER_DIED = re.compile(r"DataLoader worker \(pid.*?(killed by signal: \w+|exited unexpectedly)")
RESUME = (
    "Resume a run with make train RUN=FOLDER RESUME=1 (mbls train --run FOLDER --resume); start a "
    "test or a prediction again."
)
UNION = "Does not validate against any of the Union subtypes"  # jsonargparse about a constructor
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class ChoiceError(ValueError):
    """A name that no configuration file has."""

    for_user = True


class UsageError(ChoiceError):
    """An option or a setting that does not exist, or a value that it does not take."""

    status = 2


class SettingError(ValueError):
    """A setting that a class refused when it was made from the configuration."""

    for_user = True


class MissingExtraError(ImportError):
    """A package that an option needs and that is not installed."""

    for_user = True


class CheckpointError(ValueError):
    """A checkpoint that cannot be used here."""

    for_user = True
    of_all_ranks = False


class RunFolderError(ValueError):
    """A run folder that is missing, taken or incomplete."""

    for_user = True
    of_all_ranks = False


class OutputError(ValueError):
    """A place that predictions cannot be written to."""

    for_user = True
    of_all_ranks = False


class ReportError(ValueError):
    """Runs of which no report can be made."""

    for_user = True


class NonFiniteError(RuntimeError):
    """A loss or a weight that became NaN or infinite."""

    for_user = True
    of_all_ranks = True


class FirstRankError(RuntimeError):
    """A rank that ends because rank 0 failed before it."""

    for_user = True
    of_all_ranks = True


class Interrupted(RuntimeError):  # noqa: N818  (it is no fault)
    """A run that a signal stopped in good order.

    Args:
        message: Where the run stopped, and how to go on.
        status: Exit status of the process.
    """

    for_user = True
    of_all_ranks = True

    def __init__(self, message: str, *, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


@contextmanager
def setting_errors(*others: type[Exception]) -> Iterator[None]:
    """Turn what constructors raise about their settings into an error of the user.

    Args:
        others: Errors of theirs besides ValueError.

    Raises:
        SettingError: With the constructor's own message.
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
    """Return the message for an error of the user, None for a fault of the code."""
    if getattr(error, "for_user", False):
        return str(error)
    if died := WORKER_DIED.search(str(error)):
        return (
            f"A process that loads data has died ({died.group(1)}). Most often the system was out "
            f"of memory: take fewer of them (--data.init_args.num_workers). {RESUME}"
        )
    if isinstance(error, OSError) and error.errno in DISK:
        return (
            f"{error.filename or 'A file'} cannot be written or read ({error.strerror}). What was "
            "written before is complete."
        )
    return None
