"""What fails on one rank ends all."""

from types import SimpleNamespace
from typing import Any

import pytest

from mbls.callbacks.rank_zero import on_rank_zero
from mbls.errors import FirstRankError


def trainers() -> tuple[Any, Any]:
    """Ranks 0 and 1, of which the second hears what the first has sent."""
    sent: list[Any] = []

    def send(value: Any) -> Any:
        sent.append(value)
        return value

    first = SimpleNamespace(is_global_zero=True, strategy=SimpleNamespace(broadcast=send))
    heard = SimpleNamespace(broadcast=lambda mine: sent.pop(0))
    return first, SimpleNamespace(is_global_zero=False, strategy=heard)


def test_the_result_is_known_to_all() -> None:
    first, second = trainers()
    assert on_rank_zero(first, lambda: "folder") == "folder"
    assert on_rank_zero(second, lambda: pytest.fail("rank 1 does no work")) == "folder"


def test_any_error_of_the_first_rank_is_known_to_all() -> None:
    class Unsent(Exception):  # noqa: N818  (like those of libraries, it cannot be pickled)
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    def fail() -> None:
        raise Unsent(1, 2)

    first, second = trainers()
    with pytest.raises(Unsent, match="1 and 2"):
        on_rank_zero(first, fail)
    with pytest.raises(FirstRankError, match=r"Rank 0 failed \(Unsent: 1 and 2\)"):
        on_rank_zero(second, fail)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_so_is_what_ends_the_first_rank_without_an_error(kind: type[BaseException]) -> None:
    def end() -> None:
        raise kind

    first, second = trainers()
    with pytest.raises(kind):
        on_rank_zero(first, end)
    with pytest.raises(FirstRankError, match=rf"Rank 0 failed \({kind.__name__}\)"):
        on_rank_zero(second, end)
