"""Grouped settings of the data: partial overrides, and run folders of earlier versions."""

import copy
import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from mbls.cli import main
from mbls.commands.benchmark import refuse_other_runs
from mbls.config.choices import config_folder
from mbls.config.moved import MOVED, read_run_config, updated
from mbls.report.runs import find_runs
from mbls.runtime.errors import RunFolderError
from tests import few, tiny
from tests.grouped import GROUPS

pytestmark = pytest.mark.filterwarnings("ignore")


LATER = {("division", "train_patients"), ("division", "external"), ("sampling", "raters")}
"""Fields that came after the groups, which no earlier configuration has."""


def earlier(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration as earlier versions wrote it, with one argument a setting."""
    found = copy.deepcopy(config)
    arguments = found["data"]["init_args"]
    groups = {name: arguments.pop(name) for name in GROUPS}
    for name, (group, field) in MOVED.items():
        arguments[name] = groups[group][field]
    return found


def test_every_field_is_in_the_table() -> None:
    known = {(name, f.name) for name, group in GROUPS.items() for f in fields(group)}
    assert set(MOVED.values()) == known - LATER


def test_settings_of_other_classes_stay() -> None:
    config = {"data": {"class_path": "my.Data", "init_args": {"spacing": 1, "patch_size": [8]}}}
    assert updated(config) == config
    assert updated({"model": {}}) == {"model": {}}


def test_later_files_and_options_change_the_fields_that_they_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = config_folder() / "data"
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "data: {class_path: datamodules.FLAREDataModule, init_args: {division: {fold: 1}}}"
    )
    files = [data / "flare.yaml", data / "flare.quick.yaml", mine]
    configs = [f"--config={config_folder() / 'base.yaml'}", *(f"--config={file}" for file in files)]
    network = [f"--config={config_folder() / kind}.yaml" for kind in ("network/unet", "loss/ce")]
    change = ["--data.init_args.sampling.patch_size=[48, 48]", "--data.division.folds=3"]
    with pytest.raises(SystemExit):
        main(["fit", *configs, *network, *change, "--print_config"])
    shown = capsys.readouterr().out
    found = yaml.safe_load(shown[shown.index("seed_everything") :])["data"]["init_args"]
    stated = yaml.safe_load((data / "flare.yaml").read_text())["data"]["init_args"]
    assert found["division"] == stated["division"] | {"fold": 1, "folds": 3}
    quick = {"spacing": [4.0, 4.0], "crop_above": -500.0}
    assert found["preprocessing"] == stated["preprocessing"] | quick
    assert found["sampling"] == {
        "patch_size": [48, 48], "crop": "random", "foreground": 0.5, "samples_per_case": 1,
        "raters": "majority",
    }  # fmt: skip


def test_help_shows_fields(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--data.help", "datamodules.FLAREDataModule"])
    shown = capsys.readouterr().out
    for group, field in MOVED.values():
        assert f"--data.{group}.{field} " in shown
    assert "Expected share of validation patients" in shown


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of one epoch, whose config.yaml is one of an earlier version."""
    folder = tmp_path_factory.mktemp("acdc")
    assert main(["train", *few.acdc_args(folder)]) == 0
    found = tiny.run_folder(folder)
    file = found / "config.yaml"
    config = yaml.safe_load(file.read_text())
    old = earlier(config)
    assert not old["data"]["init_args"].keys() & GROUPS.keys()
    file.write_text(yaml.safe_dump(old))
    for group, name in LATER:
        config["data"]["init_args"][group].pop(name, None)
    assert read_run_config(file) == config
    card = json.loads((found / "run.json").read_text())
    (found / "run.json").write_text(json.dumps(card | {"config_hash": "of the earlier version"}))
    return found


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    """Return a copy of the run folder, to change."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def test_an_earlier_run_is_tested(own: Path) -> None:
    before = json.loads((own / "test/best/metrics.json").read_text())
    assert main(["evaluate", str(own), "--tag", "again"]) == 0
    after = json.loads((own / "test/again/metrics.json").read_text())
    assert after["dice"] == before["dice"]
    assert after["meta"]["data_fingerprint"] == before["meta"]["data_fingerprint"]
    assert main(["evaluate", str(own), "--fold", "1"]) == 0
    assert (own / "test/best-fold1/metrics.json").is_file()


def test_an_earlier_run_predicts(own: Path, tmp_path: Path) -> None:
    root = Path(yaml.safe_load((own / "config.yaml").read_text())["data"]["init_args"]["root"])
    image = root / "testing/patient101/patient101_frame01.nii.gz"
    assert main(["predict", "--run", str(own), "--input", str(image),
                 "--output", str(tmp_path / "out")]) == 0  # fmt: skip
    assert (tmp_path / "out" / image.name).is_file()


def test_an_earlier_run_is_resumed(own: Path) -> None:
    assert main(["train", "--run", str(own), "--resume", "--epochs", "2"]) == 0
    assert tiny.state(own)["epoch"] == 2
    assert yaml.safe_load((own / "config.yaml").read_text())["trainer"]["max_epochs"] == 2


def test_an_earlier_run_is_reported_like_one_of_this_version(run: Path) -> None:
    ((found,), left_out) = find_runs([run])
    assert left_out == []
    assert found.config["data"]["init_args"]["division"]["val_fraction"] == 0.3


def test_an_earlier_run_is_one_of_its_sweep(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its hash is of the earlier form; then the settings are compared, in this version's form."""
    from mbls.benchmark.cells import State
    from mbls.config import cli

    class Cell:
        folder = run

        def state(self) -> State:
            return State.FINISHED

        def settings(self) -> None: ...

    wanted = read_run_config(run / "config.yaml")
    monkeypatch.setattr(cli, "resolve", lambda cells: [wanted for _ in cells])
    refuse_other_runs([Cell()])  # type: ignore[list-item]
    wanted["data"]["init_args"]["sampling"]["patch_size"] = [8, 8]
    with pytest.raises(RunFolderError, match=r"data\.sampling.patch_size is 16 16, not 8 8"):
        refuse_other_runs([Cell()])  # type: ignore[list-item]
