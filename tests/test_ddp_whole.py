"""Whole runs on several ranks: every dataset, dead ranks, torchrun, two jobs at once."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests import ranks, tiny

pytestmark = [pytest.mark.ddp, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

CONFIGS = tiny.ROOT / "experiments/configs/data"
CASES = {("acdc", 2): (2, 5, 7, 21)}  # 2 are fewer than 3 ranks
FEW = (2, 7)
DATASETS = [(name, dims) for name in ("acdc", "brats", "flare") for dims in (2, 3)]


def phantom(name: str, dims: int, folder: Path) -> list[str]:
    """Words of a run of two steps on a dataset's phantom, with any number of test cases."""
    deep = [f"{name}.3d.yaml", f"{name}.3d.quick.yaml"] if dims == 3 else []
    settings: dict[str, Any] = {}
    for file in (f"{name}.yaml", f"{name}.quick.yaml", *deep):
        settings |= yaml.safe_load((CONFIGS / file).read_text())["data"]["init_args"]
    kind = {"acdc": "ACDC", "brats": "BraTS", "flare": "FLARE"}[name]
    settings |= {
        "phantom_root": str(folder / name),
        # patients of ACDC have two cases each
        "phantom_patients": {"train": 4, "val": 1, "test": 11 if name == "acdc" else max(FEW)},
        "cache_dir": str(folder / "cache"),
        "test_cases": 2,
    }
    words = tiny.words(folder / f"{name}{dims}", epochs=1)
    data = {"class_path": f"tests.few.Few{kind}", "init_args": settings}
    (folder / f"{name}{dims}/data/blobs.yaml").write_text(yaml.safe_dump({"data": data}))
    return tiny.fit_words(
        *words, "--batch-size", "2", "--trainer.limit_train_batches", "2", "--devices", "1"
    )


def results(run: Path, tag: str) -> dict[str, Any]:
    folder = run / "test" / tag
    with np.load(folder / "bins.npz") as bins:
        arrays = dict(bins)
    texts = {name: (folder / name).read_text() for name in ("metrics.json", "cases.csv")}
    return arrays | {name: text.replace(tag, "tag") for name, text in texts.items()}


@pytest.mark.timeout(2400)
def test_a_checkpoint_scores_the_same_on_one_two_and_three_ranks(tmp_path: Path) -> None:
    fits = [phantom(name, dims, tmp_path) for name, dims in DATASETS]
    (done,) = ranks.run(fits, tmp_path / "fits.json", world=1, limit=1200)
    assert done.code == 0, done.err
    runs = {key: tiny.run_folder(tmp_path / f"{key[0]}{key[1]}") for key in DATASETS}
    for world in (1, 2, 3):
        commands = [
            ["evaluate", str(run), "--data.init_args.test_cases", str(cases),
             "--tag", f"{cases}-on-{world}", "--trainer.devices", str(world)]
            for key, run in runs.items() for cases in CASES.get(key, FEW)
        ]  # fmt: skip
        all_done = ranks.run(commands, tmp_path / "tests.json", world=world, limit=1200)
        assert [done.code for done in all_done] == [0] * world, all_done
        assert all(done.out == "" for done in all_done[1:])
    for key, run in runs.items():
        for cases in CASES.get(key, FEW):
            alone = results(run, f"{cases}-on-1")
            assert len(alone["cases.csv"].splitlines()) == 1 + cases
            for world in (2, 3):
                shared = results(run, f"{cases}-on-{world}")
                assert shared.keys() == alone.keys()
                for name, value in alone.items():
                    np.testing.assert_array_equal(shared[name], value, err_msg=f"{key} {name}")


def alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return text.rpartition(") ")[2][0] != "Z"


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_takes_the_others_with_it(victim: int, tmp_path: Path) -> None:
    words = [*tiny.words(tmp_path, train=40, epochs=1000), "--devices", "2"]
    process = tiny.start("train", *words)
    tiny.wait_for((tiny.run_folder(tmp_path) / "checkpoints/previous.ckpt").exists, process)
    (second,) = map(int, subprocess.check_output(["pgrep", "-P", str(process.pid)]).split())
    os.kill((process.pid, second)[victim], signal.SIGKILL)
    done = tiny.finish(process, limit=60)
    assert done.code != 0
    tiny.wait_for(lambda: not alive(second), process, limit=60)
    assert not alive(second)
    assert tiny.fit("--run", str(tiny.run_folder(tmp_path)), "--resume", "--epochs", "1") == 0


@pytest.mark.parametrize("victim", [0, 2])
def test_so_does_one_that_was_started_from_outside(victim: int, tmp_path: Path) -> None:
    words = tiny.words(tmp_path, train=48, batch_size=6, epochs=1000)
    started = ranks.start([["train", *words, "--devices", "3"]], tmp_path / "c.json", world=3)
    tiny.wait_for((tiny.run_folder(tmp_path) / "checkpoints/previous.ckpt").exists, started[0])
    started[victim].kill()
    done = ranks.finish(started, limit=60)
    assert all(each.code != 0 for each in done)


def test_torchrun_on_two_nodes(tmp_path: Path) -> None:
    words = tiny.words(tmp_path, epochs=1)
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tiny.ROOT)}
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{ranks.free_port()}",
        "--rdzv-id", "mbls", "--local-addr", "127.0.0.1",
    ]  # fmt: skip
    agents = [
        subprocess.Popen(
            [*torchrun, str(tiny.MBLS), "train", *words, "--nodes", "2", "--devices", "1"],
            cwd=tiny.ROOT, env=env, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    done = ranks.finish(agents)
    assert [each.code for each in done] == [0, 0], done
    said = "".join(each.out for each in done)
    assert said.count("Run folder:") == said.count("dataset ") == 1
    run = tiny.run_folder(tmp_path)
    assert [path.name for path in run.parent.iterdir()] == ["seed0"]
    card = json.loads((run / "run.json").read_text())
    assert (card["ranks"], card["nodes"]) == (2, 2)


def test_a_fault_in_the_data_is_told_once_and_ends_all_ranks(tmp_path: Path) -> None:
    words = tiny.words(tmp_path)
    data = yaml.safe_load((tmp_path / "data/blobs.yaml").read_text())
    data["data"] = {"class_path": "datamodules.ACDCDataModule",
                    "init_args": {"root": str(tmp_path / "nowhere")}}  # fmt: skip
    (tmp_path / "data/blobs.yaml").write_text(yaml.safe_dump(data))
    done = ranks.run([["train", *words, "--devices", "2"]], tmp_path / "c.json", world=2)
    assert "nowhere" in done[0].err
    assert "Traceback" not in done[0].err
    assert done[1].out == done[1].err == ""
    assert done[0].code != 0
    assert not (tmp_path / "runs").exists()


def test_two_jobs_at_once_share_a_cache_and_no_run_folder(tmp_path: Path) -> None:
    """Both find neither phantom nor cache."""
    words = phantom("acdc", 2, tmp_path)
    jobs = [tiny.start(*words) for _ in range(2)]
    for job in jobs:
        done = tiny.finish(job)
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
