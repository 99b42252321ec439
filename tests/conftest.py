"""Fixtures every test shares."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch

from mbls.cli import main
from tests.forks import Forks
from tests.processes import kill_started
from tests.tiny import FIGURES, leave_out_figures


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a CUDA device where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _no_figures() -> Iterator[None]:
    """Draw no figures of test runs: they take ten times as long as a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out_figures(patch.setattr)
        yield


@pytest.fixture(scope="module")
def few_draws() -> Iterator[int]:
    """Draw the patients of a test run's intervals this often instead of ten thousand times."""
    from mbls.evaluation import summary
    from mbls.metrics.bootstrap import patient_weights

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "patient_weights", partial(patient_weights, draws=500))
        yield 500


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the figures of test runs in this test."""
    for module, name, original in FIGURES:
        monkeypatch.setattr(module, name, original)


@pytest.fixture
def refusal(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run ``mbls`` with wrong arguments or files; return its message on one line."""

    def run(*args: str) -> str:
        capfd.readouterr()
        assert main(args) in (1, 2)
        printed = capfd.readouterr().err
        assert "Traceback" not in printed
        return " ".join(printed.split())

    return run


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Start processes that fork from one that has its imports."""
    server = Forks(tmp_path_factory.mktemp("forks"))
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    kill_started()
