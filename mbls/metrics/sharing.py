"""Work on pieces of a volume in several threads at once."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def share_out(
    work: Callable[[Iterable[tuple[Tensor, ...]]], Result],
    pieces: Iterator[tuple[Tensor, ...]],
    like: Tensor,
) -> list[Result]:
    """Run ``work`` on disjoint shares of ``pieces`` and return the results.

    On a CPU there are as many threads as torch has; each takes the next piece when it is done with
    one, so which share is whose is left to chance: sums of integers do not mind. Small inputs and
    other devices get a single share.

    Args:
        work: Takes pieces until there are no more.
        pieces: What to share out.
        like: Says where the pieces live and how much there is.
    """
    threads = torch.get_num_threads() if like.device.type == "cpu" else 1
    if threads == 1 or like.numel() < 1 << 18:
        return [work(pieces)]
    lock = Lock()

    def next_ones() -> Iterator[tuple[Tensor, ...]]:
        while True:
            with lock:
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    def run() -> Result:
        with torch.no_grad():  # a new thread does not inherit it
            return work(next_ones())

    with ThreadPoolExecutor(threads) as pool:
        return [f.result() for f in [pool.submit(run) for _ in range(threads)]]
