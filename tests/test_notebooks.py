"""The notebooks run from top to bottom on a small run, and are kept without outputs."""

import json
from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient

from mbls.cli import main

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained and tested run on discs."""
    home = tmp_path_factory.mktemp("notebooks")
    data = {"data": {"class_path": "tests.blobs.BlobDataModule", "init_args": {"root": None}}}
    (home / "blobs.yaml").write_text(yaml.safe_dump(data))
    words = ["--dataset", str(home / "blobs.yaml"), "--loss", "ce", "--network", "unet"]
    words += ["--preset", "quick", "--epochs", "2", "--accelerator", "cpu"]
    words += ["--trainer.enable_progress_bar", "false", "--trainer.callbacks", "null"]
    assert main(["train", *words, "--run", str(home / "run")]) == 0
    return home / "run"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MBLS_RUN", str(run))
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=120, kernel_name="python3")
    client.execute(cwd=str(path.parent))
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 3
    assert "PHANTOM" in json.dumps(notebook)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_without_outputs(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
