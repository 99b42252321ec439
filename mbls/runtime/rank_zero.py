"""A failure on one rank that all learn of, so that none waits for one that is gone."""

import socket
from collections.abc import Callable
from typing import TypeVar, cast

import torch
from lightning.pytorch import Trainer

from mbls.runtime.errors import CheckpointError, FirstRankError, OutputError, RunFolderError

__all__ = ["on_rank_zero", "share_error", "share_errors", "told_by"]

T = TypeVar("T")


def on_rank_zero(trainer: Trainer, work: Callable[[], T]) -> T:
    """Do the work on rank 0, and give every rank its result; all ranks call it.

    Raises:
        BaseException: Of the work, on rank 0.
        FirstRankError: On the others, whatever it was.
    """
    result: T | None = None
    error: BaseException | None = None
    if trainer.is_global_zero:
        try:
            result = work()
        except BaseException as raised:  # Ctrl-C as well
            error = raised
    share_error(trainer, error)
    return cast(T, trainer.strategy.broadcast(result))


def share_error(trainer: Trainer, error: BaseException | None) -> None:
    """Raise what rank 0 has met, if anything, and on the others that it has; all ranks call it.

    Raises:
        BaseException: On rank 0, which says what it was.
        FirstRankError: On the others. The error itself may not be one that can be sent.
    """
    told = None if error is None else f"{type(error).__name__}: {error}"
    told = trainer.strategy.broadcast(told)
    if error is not None:
        raise error
    if told is not None:
        raise FirstRankError(f"Rank 0 failed ({told.removesuffix(': ')}).")


def share_errors(
    trainer: Trainer, error: CheckpointError | OutputError | RunFolderError | None
) -> None:
    """Raise on every rank what the first of them has met, if any has; all ranks call it.

    What another rank than 0 has met says which one, and where.
    """
    errors = [error]
    if trainer.world_size > 1:
        if error is not None and not trainer.is_global_zero:
            error = type(error)(told_by(error, trainer.global_rank))
        errors = [None] * trainer.world_size
        torch.distributed.all_gather_object(errors, error)
    for each in errors:
        if each is not None:
            each.of_all_ranks = True
            raise each


def told_by(error: Exception, rank: int) -> str:
    """Return the message of an error that a rank other than 0 has met, and which one it is."""
    return f"Rank {rank} on {socket.gethostname()}: {error}"
