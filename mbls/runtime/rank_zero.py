"""Send an error from one rank to all, so no rank waits for one that has failed."""

from collections.abc import Callable
from typing import TypeVar, cast

import torch
from lightning.pytorch import Trainer

from mbls.runtime.errors import CheckpointError, FirstRankError, OutputError, RunFolderError
from mbls.runtime.ranks import rank_prefix

__all__ = ["on_rank_zero", "share_error", "share_errors"]

T = TypeVar("T")


def on_rank_zero(trainer: Trainer, work: Callable[[], T]) -> T:
    """Call ``work`` on rank 0 and return its result on every rank; all ranks must call this.

    Raises:
        BaseException: On rank 0, the error of ``work``.
        FirstRankError: On the other ranks.
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
    """Raise the error of rank 0, if any, on all ranks; all ranks must call this.

    Raises:
        BaseException: On rank 0, the error itself.
        FirstRankError: On the other ranks, since the error itself may not be picklable.
    """
    text = None if error is None else f"{type(error).__name__}: {error}"
    text = trainer.strategy.broadcast(text)
    if error is not None:
        raise error
    if text is not None:
        raise FirstRankError(f"Rank 0 failed ({text.removesuffix(': ')}).")


def share_errors(
    trainer: Trainer, error: CheckpointError | OutputError | RunFolderError | None
) -> None:
    """Raise the error of the lowest rank that has one on every rank; all ranks must call this.

    The message of an error from a rank other than 0 starts with the rank and its host.
    """
    errors = [error]
    if trainer.world_size > 1:
        if error is not None:
            error = type(error)(f"{rank_prefix()}{error}")
        errors = [None] * trainer.world_size
        torch.distributed.all_gather_object(errors, error)
    for each in errors:
        if each is not None:
            each.of_all_ranks = True
            raise each
