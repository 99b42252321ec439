"""Fixtures every test shares."""

from collections.abc import Iterator

import pytest
import torch

from tests.processes import kill_started


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    kill_started()
