"""How many threads compute, and how long an idle one spins; imports nothing heavy."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["compute_alone", "in_threads"]

Result = TypeVar("Result")


def in_threads(count: int, work: Callable[[], Result]) -> list[Result]:
    """Call ``work`` in so many threads at once, in each of which torch computes alone."""
    import torch

    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, initializer=compute_alone) as pool:
            return [done.result() for done in [pool.submit(work) for _ in range(count)]]
    finally:
        torch.set_num_threads(before)


def compute_alone() -> None:
    """Let torch use no other thread for what this thread computes.

    It is also the number of threads to come, until another thread sets its own again.
    """
    import torch

    torch.get_num_threads()  # or the thread would take the number set last
    torch.set_num_threads(1)
