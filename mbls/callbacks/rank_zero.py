"""A failure on one rank that all learn of, so that none waits for one that is gone."""

from collections.abc import Callable

import torch
from lightning.pytorch import Trainer

from mbls.errors import OutputError

__all__ = ["on_rank_zero", "share_error", "share_errors"]


def on_rank_zero(trainer: Trainer, work: Callable[[], None]) -> None:
    """Do the work on rank 0; all ranks call it, and wait until it is done.

    Raises:
        OutputError: Of the work, on every rank.
    """
    error: OutputError | None = None
    if trainer.is_global_zero:
        try:
            work()
        except OutputError as raised:
            error = raised
    share_error(trainer, error)


def share_error(trainer: Trainer, error: OutputError | None) -> None:
    """Raise on every rank what rank 0 has met, if anything; all ranks call it."""
    error = trainer.strategy.broadcast(error)
    if error is not None:
        raise error


def share_errors(trainer: Trainer, error: OutputError | None) -> None:
    """Raise on every rank what the first of them has met, if any has; all ranks call it."""
    errors = [error]
    if trainer.world_size > 1:
        errors = [None] * trainer.world_size
        torch.distributed.all_gather_object(errors, error)
    for each in errors:
        if each is not None:
            raise each
