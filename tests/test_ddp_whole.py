"""Whole runs on several ranks: every dataset, torchrun, two jobs at once."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests import processes, tiny
from tests.forks import Forks
from tests.grouped import merged, nested

pytestmark = [pytest.mark.ddp, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

CONFIGS = processes.ROOT / "experiments/configs/data"
CASES = (2, 5, 7, 21)  # 2 are fewer than 3 ranks
DATASETS = [(name, dims) for name in ("acdc", "brats", "flare") for dims in (2, 3)]


def phantom(name: str, dims: int, folder: Path) -> list[str]:
    """Return arguments of a run on a dataset's phantom, with SGD and no dropout.

    Volumes are tiny: what is looked at is who trains on a sample, and who scores a case.
    """
    deep = [f"{name}.3d.yaml", f"{name}.3d.quick.yaml"] if dims == 3 else []
    settings: dict[str, Any] = {}
    for file in (f"{name}.yaml", f"{name}.quick.yaml", *deep):
        later = yaml.safe_load((CONFIGS / file).read_text())["data"]["init_args"]
        settings = merged(settings, later)
    kind = {"acdc": "ACDC", "brats": "BraTS", "flare": "FLARE"}[name]
    # patients of ACDC have two cases each
    patients = {"train": 4, "val": 1, "test": 11 if name == "acdc" else max(CASES)}
    changes = nested(
        phantom_root=str(folder / name),
        phantom_patients=patients,
        cache_dir=str(folder / "cache"),
        test_cases=2,
        spacing=[8.0] * dims,
        patch_size=[16] * dims,
        batch_size=6,
    )
    args = [*tiny.train_args(folder / f"{name}{dims}"), "--devices", "1"]
    data = {"class_path": f"tests.few.Few{kind}", "init_args": merged(settings, changes)}
    (folder / f"{name}{dims}/data/blobs.yaml").write_text(yaml.safe_dump({"data": data}))
    return tiny.fit_args(
        *args, "--trainer.limit_train_batches", "10", "--model.network.init_args.dropout", "0.0",
        "--model.optimizer", "torch.optim.SGD", "--model.optimizer.init_args.lr", "0.01",
    )  # fmt: skip


@dataclass(frozen=True)
class Runs:
    """Each dataset's run on 1, 2 and 3 ranks; that on one rank was tested on 1, 2 and 3."""

    folder: Path

    def of(self, name: str, dims: int, world: int) -> Path:
        return self.folder / f"{name}{dims}-on-{world}"

    def weights(self, *key: Any, which: str = "last") -> dict[str, torch.Tensor]:
        path = self.of(*key) / "checkpoints" / f"{which}.ckpt"
        return torch.load(path, weights_only=True)["state_dict"]

    def results(self, name: str, dims: int, cases: int, world: int) -> dict[str, Any]:
        tag = f"{cases}-on-{world}"
        folder = self.of(name, dims, 1) / "test" / tag
        found: dict[str, Any] = {
            file: (folder / file).read_text().replace(tag, "tag")
            for file in ("metrics.json", "cases.csv")
        }
        for file in ("bins.npz", "worst.npz"):
            with np.load(folder / file) as arrays:
                for array, value in arrays.items():
                    named = value.dtype.kind == "U"
                    found[f"{file}/{array}"] = (
                        np.char.replace(value, tag, "tag") if named else value
                    )
        return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Runs:
    made = Runs(tmp_path_factory.mktemp("runs"))
    args = {key: phantom(*key, made.folder) for key in DATASETS}
    for world in (1, 2, 3):
        for key in DATASETS:
            forks.ranks(*args[key], "--run.folder", str(made.of(*key, world)), world=world)
            for cases in CASES:
                forks.ranks(
                    "evaluate", str(made.of(*key, 1)), "--data.init_args.test_cases", str(cases),
                    "--tag", f"{cases}-on-{world}", world=world,
                )  # fmt: skip
    return made


@pytest.mark.timeout(2000)
@pytest.mark.parametrize(("name", "dims"), DATASETS)
@pytest.mark.parametrize("world", [2, 3])
def test_several_ranks_train_as_one(name: str, dims: int, world: int, runs: Runs) -> None:
    ours, one = (runs.weights(name, dims, k) for k in (world, 1))
    before = runs.weights(name, dims, 1, which="previous")
    assert any((value - before[part]).abs().max() > 1e-3 for part, value in one.items())
    for part, value in one.items():
        torch.testing.assert_close(ours[part], value, rtol=0, atol=1e-6, msg=part)


@pytest.mark.timeout(2000)
@pytest.mark.parametrize(("name", "dims"), DATASETS)
@pytest.mark.parametrize("cases", CASES)
@pytest.mark.parametrize("world", [2, 3])
def test_checkpoint_scores_the_same_on_several_ranks(
    name: str, dims: int, cases: int, world: int, runs: Runs
) -> None:
    shared, alone = (runs.results(name, dims, cases, k) for k in (world, 1))
    assert len(alone["cases.csv"].splitlines()) == 1 + cases
    assert shared.keys() == alone.keys()
    for part, value in alone.items():
        np.testing.assert_array_equal(shared[part], value, err_msg=part)


def test_torchrun_on_two_nodes(tmp_path: Path) -> None:
    args = tiny.train_args(tmp_path, epochs=1)
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{processes.free_port()}",
        "--rdzv-id", "mbls", "--local-addr", "127.0.0.1",
    ]  # fmt: skip
    command = [*torchrun, str(processes.MBLS), "train", *args, "--nodes", "2", "--devices", "1"]
    agents = [processes.launch(command) for _ in range(2)]
    done = [processes.finish(agent) for agent in agents]
    assert [each.code for each in done] == [0, 0], done
    out = "".join(each.out for each in done)
    assert out.count("Run folder:") == out.count("dataset ") == 1
    run = tiny.run_folder(tmp_path)
    assert [path.name for path in run.parent.iterdir()] == ["seed0"]
    card = json.loads((run / "run.json").read_text())
    assert (card["ranks"], card["nodes"]) == (2, 2)


def test_data_error_is_reported_once_and_ends_all_ranks(forks: Forks, tmp_path: Path) -> None:
    args = tiny.train_args(tmp_path)
    data = yaml.safe_load((tmp_path / "data/blobs.yaml").read_text())
    data["data"] = {"class_path": "datamodules.ACDCDataModule",
                    "init_args": {"root": str(tmp_path / "nowhere")}}  # fmt: skip
    (tmp_path / "data/blobs.yaml").write_text(yaml.safe_dump(data))
    first, second = forks.finish(*forks.start_ranks("train", *args))
    assert "nowhere" in first.out
    assert "Traceback" not in first.out
    assert second.out == ""
    assert first.code != 0
    assert not (tmp_path / "runs").exists()


def test_two_jobs_at_once_share_a_cache_and_no_run_folder(tmp_path: Path) -> None:
    """Both find neither phantom nor cache."""
    args = phantom("acdc", 2, tmp_path)
    jobs = [processes.start(*args) for _ in range(2)]
    for job in jobs:
        done = processes.finish(job)
        assert done.code == 0, done.err
    home = tmp_path / "acdc2/runs/blobs/tiny-mbls"
    assert sorted(path.name for path in home.iterdir()) == ["seed0", "seed0-2"]
    cards = [json.loads((home / name / "run.json").read_text()) for name in ("seed0", "seed0-2")]
    assert cards[0]["data_fingerprint"] == cards[1]["data_fingerprint"]
    first, second = (
        torch.load(home / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("seed0", "seed0-2")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    (cache,) = (tmp_path / "cache").iterdir()
    assert not [path for path in cache.rglob("*") if path.suffix == ".tmp"]
