"""Files of others run no code: checkpoints, arrays and YAML, at every place that reads them."""

import ast
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from datamodules.reading.posterior import load_shares
from mbls.callbacks import Checkpoints, read_checkpoint
from mbls.callbacks.checkpoint_files import PlainCheckpointIO
from mbls.config.choices import stated_dims
from mbls.evaluation import from_bins, load_results
from mbls.losses.catalogue import loss_table
from mbls.module import SegmentationModule
from mbls.runtime.errors import CheckpointError, ChoiceError
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore")
ROOT = Path(__file__).parents[1]


class Evil:
    """Leaves a file when a careless reader unpickles it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[Path]:
    """Where code of a file would leave its trace; none may be there when the test ends."""
    path = tmp_path / "ran"
    yield path
    assert not path.exists()


def evil_checkpoint(path: Path, trace: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"mbls": {"num_classes": 3}, "state_dict": Evil(trace)}, path)
    return path


def evil_arrays(path: Path, trace: Path, *names: str) -> Path:
    np.savez(path, **{name: np.array([Evil(trace)], dtype=object) for name in names})
    return path


EVIL_YAML = "data: !!python/object/apply:os.mkdir [{trace}]\n"


def test_trap_works(tmp_path: Path) -> None:
    """The files refused below do run code in a careless reader."""
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    torch.load(evil_checkpoint(tmp_path / "a.ckpt", one), weights_only=False)
    np.load(evil_arrays(tmp_path / "a.npz", two, "x"), allow_pickle=True)["x"]
    yaml.unsafe_load(EVIL_YAML.format(trace=three))
    assert all(trace.is_dir() for trace in (one, two, three))


# Checkpoints -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sound run."""
    folder = tmp_path_factory.mktemp("sound")
    assert tiny.fit(*tiny.train_args(folder, epochs=1)) == 0
    return tiny.run_folder(folder)


@pytest.mark.parametrize(
    "args",
    [
        ["evaluate", "RUN"],
        ["predict", "--config", "RUN/config.yaml", "--ckpt_path", "RUN/checkpoints/best.ckpt"],
        ["train", "--run", "RUN", "--resume"],
        ["fit", "--config", "RUN/config.yaml", "--ckpt_path", "RUN/checkpoints/best.ckpt"],
        ["validate", "--config", "RUN/config.yaml", "--ckpt_path", "RUN/checkpoints/best.ckpt"],
    ],
    ids=lambda args: args[0],
)
def test_no_command_runs_a_checkpoint(
    args: list[str], run: Path, tmp_path: Path, trace: Path, refusal: Callable[..., str]
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    for name in ("best", "last", "previous"):
        evil_checkpoint(copy / "checkpoints" / f"{name}.ckpt", trace)
    error = refusal(*(arg.replace("RUN", str(copy)) for arg in args))
    assert "cannot be read as a checkpoint" in error


def test_no_reader_of_checkpoints_runs_one(tmp_path: Path, trace: Path) -> None:
    path = evil_checkpoint(tmp_path / "evil.ckpt", trace)
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match="Weights only load failed"):
        PlainCheckpointIO().load_checkpoint(path, weights_only=False)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        SegmentationModule.load_from_checkpoint(path)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    Checkpoints().setup(trainer, None, "fit")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="Weights only load failed"):
        trainer.strategy.load_checkpoint(path, weights_only=False)  # where lightning reads


# Arrays ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", [from_bins, lambda path: load_results(path.parent)])
def test_no_reader_of_results_runs_them(
    reader: Callable[[Path], Any], tmp_path: Path, trace: Path
) -> None:
    for name in ("metrics.json", "cases.csv"):
        (tmp_path / name).write_text("{}")
    path = evil_arrays(tmp_path / "bins.npz", trace, "cells", "sums", "meta")
    with pytest.raises(ValueError, match="allow_pickle=False"):
        reader(path)


def test_no_reader_of_posteriors_runs_them(tmp_path: Path, trace: Path) -> None:
    path = evil_arrays(tmp_path / "a.npz", trace, "posterior")
    with pytest.raises(ValueError, match="array 'posterior'"):
        load_shares(path)


# YAML ------------------------------------------------------------------------------------------


def test_no_reader_of_choices_runs_them(tmp_path: Path, trace: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(EVIL_YAML.format(trace=trace))
    with pytest.raises(ChoiceError, match="constructor for the tag"):
        stated_dims(file)
    with pytest.raises(yaml.constructor.ConstructorError, match="constructor for the tag"):
        loss_table(tmp_path)


@pytest.mark.parametrize("command", ["fit", "evaluate", "train"])
def test_no_command_runs_a_configuration(
    command: str, run: Path, tmp_path: Path, trace: Path, refusal: Callable[..., str]
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    config = copy / "config.yaml"
    config.write_text(config.read_text() + EVIL_YAML.format(trace=trace))
    args = {
        "fit": ["fit", "--config", str(config)],
        "evaluate": ["evaluate", str(copy)],
        "train": ["train", "--run", str(copy), "--resume"],
    }
    assert "constructor for the tag" in refusal(*args[command])


# Our own source --------------------------------------------------------------------------------

MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve"}
NEEDS = {  # a call by its last names, and the argument that it needs
    "torch.load": ("weights_only", True),
    "load_from_checkpoint": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}
NEVER = {"eval", "exec", "read_pickle", "to_pickle", "unsafe_load", "full_load", "np.fromfile"}


def sources() -> Iterator[tuple[str, str]]:
    for package in ("mbls", "datamodules", "experiments"):
        for path in (ROOT / package).rglob("*.py"):
            yield str(path.relative_to(ROOT)), path.read_text()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        python = (line for line in code.splitlines() if line != "%matplotlib inline")
        yield path.name, "\n".join(python)


def faults(text: str) -> Iterator[str]:
    """What in a source could run code of a file."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from (name for name in names if name.partition(".")[0] in MODULES)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {one.arg: getattr(one.value, "value", None) for one in node.keywords}
        if name in NEVER or name.rpartition(".")[2] in NEVER - {"eval"}:
            yield name
        for call, (argument, value) in NEEDS.items():
            if (name == call or name.endswith(f".{call}")) and given.get(argument) is not value:
                yield f"{name} without {argument}={value}"
        if name == "yaml.load" and "SafeLoader" not in ast.unparse(node):
            yield name


def test_our_source_reads_no_code() -> None:
    found = {file: list(faults(text)) for file, text in sources()}
    assert len(found) > 100
    assert {file: names for file, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "line",
    ["import pickle", "from joblib import load", "torch.load(p)", "np.load(p, allow_pickle=True)",
     "yaml.load(t, yaml.Loader)", "yaml.unsafe_load(t)", "eval('1')", "pd.read_pickle(p)",
     "torch.load(p, weights_only=flag)", "Module.load_from_checkpoint(p)"],
)  # fmt: skip
def test_scan_sees(line: str) -> None:
    assert list(faults(line))
