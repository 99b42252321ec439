"""Errors a user can mend: the command line shows their message alone, without a traceback.

``for_user`` marks them, so that other packages can mark theirs without importing this one.
"""

__all__ = [
    "CheckpointError",
    "ChoiceError",
    "Interrupted",
    "NonFiniteError",
    "OutputError",
    "ReportError",
    "RunFolderError",
]


class ChoiceError(ValueError):
    """A name that no configuration file has."""

    for_user = True


class CheckpointError(ValueError):
    """A checkpoint that cannot be used here."""

    for_user = True


class RunFolderError(ValueError):
    """A run folder that is missing, taken or incomplete."""

    for_user = True


class OutputError(ValueError):
    """A place that predictions cannot be written to."""

    for_user = True


class ReportError(ValueError):
    """Runs of which no report can be made."""

    for_user = True


class NonFiniteError(RuntimeError):
    """A loss or a weight that became NaN or infinite."""

    for_user = True


class Interrupted(RuntimeError):  # noqa: N818  (it is no fault)
    """A run that a signal stopped in good order."""

    for_user = True
