"""The notebooks run from top to bottom on small runs, and are kept without outputs."""

import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.pylabtools import select_figure_formats
from IPython.display import display
from IPython.utils.capture import capture_output
from nbclient import NotebookClient

from mbls.metrics.bootstrap import patient_weights
from mbls.report.analysis import analyze
from tests.report.fake import DRAWS, write_run

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PICTURES = {"01_results": 5, "02_reliability": 5, "03_your_loss_your_data": 2, "04_truth": 3}
TRAINS = "03_your_loss_your_data"


def test_every_notebook_is_tested() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(PICTURES)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two losses with two seeds, made up: one sharper than the labels' distribution."""
    home = tmp_path_factory.mktemp("runs")
    for loss, sharpness in (("ce", 1.6), ("mbls", 1.0)):
        for seed in (0, 1):
            write_run(home, loss, seed, sharpness=sharpness, patients=4)
    return home


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    """IPython in this process, which has imported everything already, with figures as PNG.

    A shell without a kernel has no ``%matplotlib inline``.
    """
    matplotlib.use("agg")
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # the shell takes it
    made = InteractiveShell.instance()
    select_figure_formats(made, {"png"}, bbox_inches=None)  # one drawing, not two
    monkeypatch.setattr(plt, "show", lambda: display(plt.gcf()))
    monkeypatch.setitem(plt.rcParams, "figure.dpi", 30)
    yield made
    plt.close("all")
    made.reset(new_session=False)
    InteractiveShell.clear_instance()


def run_all(shell: InteractiveShell, path: Path) -> list[dict[str, str]]:
    """Run the cells of a notebook and return what they show, by type."""
    shown: list[dict[str, str]] = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            with capture_output() as captured:
                result = shell.run_cell(cell.source.removeprefix("%matplotlib inline\n"))
            result.raise_error()
            shown += [output.data for output in captured.outputs]
            shown.append({"text/plain": captured.stdout})
            if result.result is not None:
                shown.append({"text/plain": str(result.result)})
    return shown


def check(shown: list[dict[str, str]], name: str) -> None:
    assert sum("image/png" in data for data in shown) >= PICTURES[name]
    text = " ".join(data.get("text/plain", "") for data in shown)
    assert name == TRAINS or "PHANTOM" in text


@pytest.mark.parametrize("name", [name for name in PICTURES if name != TRAINS])
def test_it_runs(
    name: str, runs: Path, shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MBLS_RUNS", str(runs))
    fewer = partial(patient_weights, draws=DRAWS)  # as the runs' own intervals were drawn
    monkeypatch.setattr("mbls.evaluation.summary.patient_weights", fewer)
    monkeypatch.setattr("mbls.report.analysis.analyze", partial(analyze, draws=DRAWS))
    check(run_all(shell, ROOT / "notebooks" / f"{name}.ipynb"), name)
    if name == "04_truth":
        confidence = shell.user_ns["summary"]["mean"]
        assert confidence["all", "ce"] > confidence["all", "mbls"] + 0.02  # the sharper one
        assert confidence["all", "ce"] > 0


@pytest.mark.slow
@pytest.mark.timeout(3000)  # the first one trains
@pytest.mark.parametrize("name", sorted(PICTURES))
def test_it_runs_in_a_kernel_on_real_runs(
    name: str, real_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MBLS_RUNS", str(real_runs))
    path = ROOT / "notebooks" / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{before}")
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=str(path.parent))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [output.get("data", {"text/plain": output.get("text", "")}) for output in outputs]
    check(shown, name)


@pytest.fixture(scope="module")
def real_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two losses with two seeds, trained for an epoch on the ACDC phantom by a sweep."""
    from tests.tiny_sweep import run_sweep, sweep_args

    home = tmp_path_factory.mktemp("sweep")
    assert run_sweep(sweep_args(home, losses="ce mbls:margin=3", seeds="0 1")).code == 0
    return home / "runs"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert "/home/" not in json.dumps(notebook)


def test_new_loss_and_a_new_dataset_take_twenty_lines() -> None:
    for text in code_in(ROOT / "notebooks" / f"{TRAINS}.ipynb"):
        lines = [line for line in text.splitlines() if line.strip()]
        body = lines[next(k for k, line in enumerate(lines) if line.startswith("class ")) :]
        assert len(body) <= 20, len(body)


def code_in(path: Path) -> list[str]:
    """The Python files that a notebook writes."""
    sources = [cell.source for cell in nbformat.read(path, as_version=4).cells]
    parts = [part for source in sources for part in source.replace("'''", '"""').split('"""\n')]
    found = [part for part in parts if "\nclass " in part]
    assert len(found) == 2
    return found
