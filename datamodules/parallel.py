"""Work on many cases at once, with a progress bar."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mbls.runtime.threads import compute_alone, cpus

Item = TypeVar("Item")
Result = TypeVar("Result")

console = Console(stderr=True)


def default_workers() -> int:
    """Return a thread for each CPU this process may use, at most 16."""
    return min(16, cpus())


def in_parallel(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int | None,
    description: str,
    progress: bool,
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with the result of ``work``, as the results come.

    Threads, not processes: unpacking, copying and resampling release Python's lock, and nothing
    has to be imported again or sent across. In each torch computes alone, since a case has one
    already. The first exception cancels what has not begun.

    Args:
        work: What to do with an item.
        items: The items.
        workers: Number of threads; None for :func:`default_workers`.
        description: Text of the bar.
        progress: If True, show a progress bar.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers or default_workers(), initializer=compute_alone)
    try:
        with Progress(*columns, console=console, disable=not progress) as bar:
            task = bar.add_task(description, total=len(items))
            futures = {pool.submit(work, item): item for item in items}
            for future in as_completed(futures):
                yield futures[future], future.result()
                bar.advance(task)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)
