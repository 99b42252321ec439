"""The identity of a run: settings that may differ, and names of differences."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mbls.config.identity import config_hash, differences
from tests import tiny

CONFIG: dict[str, Any] = {
    "seed_everything": 0,
    "run": {"folder": "runs/one"},
    "model": {"loss": {"class_path": "mbls.losses.MarginLoss", "init_args": {"margin": 5.0}}},
    "data": {"init_args": {"root": None, "cache_dir": "cache", "batch_size": 8}},
    "trainer": {
        "max_epochs": 10,
        "devices": 1,
        "precision": "32-true",
        "callbacks": [{"class_path": "mbls.callbacks.ProgressBar"}],
    },
    "checkpoint": {"select": "dice", "keep": False},
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seed_everything", 1, "seed_everything is 1, not 0"),
        ("model.loss.init_args.margin", 3, "model.loss.margin is 3, not 5.0"),
        ("model.loss.init_args.margin", 5, None),
        ("model.loss.class_path", "a.Loss", "model.loss.class_path is a.Loss, not mbls.losses"),
        ("model.loss", None, "model.loss is None, not mbls.losses.MarginLoss"),
        ("model.output_device", "cpu", None),
        ("run.folder", "runs/other", None),
        ("data.init_args.root", "/here", "data.origin is real, not phantom"),
        ("data.init_args.cache_dir", "elsewhere", None),
        ("data.init_args.batch_size", 4, "data.batch_size is 4, not 8"),
        ("trainer.devices", 4, None),
        ("trainer.precision", "bf16-mixed", "trainer.precision is bf16-mixed, not 32-true"),
        ("trainer.callbacks", None, None),  # without a bar
        ("trainer.callbacks", [{"class_path": "my.EMA"}], "trainer.callbacks is my.EMA, not none"),
        ("checkpoint.select", "nll", "checkpoint.select is nll, not dice"),
        ("checkpoint.keep", True, None),
    ],
)
def test_difference_is_named_and_changes_the_hash(
    name: str, value: Any, message: str | None
) -> None:
    other = copy.deepcopy(CONFIG)
    *path, key = name.split(".")
    part = other
    for each in path:
        part = part[each]
    part[key] = value
    found = differences(CONFIG, other)
    assert [text.startswith(message) for text in found] == [True] if message else found == []
    if name != "model.loss.init_args.margin":  # 5 and 5.0, which a parser does not leave
        assert (config_hash(other) == config_hash(CONFIG)) == (message is None)


def test_settings_of_an_added_callback_count() -> None:
    ours, theirs = copy.deepcopy(CONFIG), copy.deepcopy(CONFIG)
    for config, decay in ((ours, 0.9), (theirs, 0.5)):
        config["trainer"]["callbacks"] = {"class_path": "my.EMA", "init_args": {"decay": decay}}
    assert differences(ours, theirs) == ["trainer.my.EMA.decay is 0.5, not 0.9"]


def test_setting_missing_in_an_earlier_version_is_no_difference() -> None:
    earlier = copy.deepcopy(CONFIG)
    del earlier["checkpoint"]["select"]
    assert differences(CONFIG, earlier) == []


@pytest.mark.filterwarnings("ignore")
def test_run_records_the_hash_that_a_sweep_resolves(tmp_path: Path) -> None:
    from mbls.config.cli import resolve
    from mbls.config.options import parse, parser
    from mbls.config.runs import run_settings

    args = tiny.train_args(tmp_path, epochs=1)
    assert tiny.fit(*args) == 0
    run = tiny.run_folder(tmp_path)
    (wanted,) = resolve([run_settings(*parse(parser("train", None), args))])
    found = yaml.safe_load((run / "config.yaml").read_text())
    assert differences(wanted, found) == []
    recorded = json.loads((run / "run.json").read_text())["config_hash"]
    assert recorded == config_hash(wanted) == config_hash(found)
