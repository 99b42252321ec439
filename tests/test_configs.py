"""Layered configurations: each choice resolves to its file, after any other choice."""

import functools
import importlib.util
import itertools
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from lightning.pytorch.cli import LightningArgumentParser

from mbls.config.choices import choices, choose, compose, config_folder
from mbls.config.cli import LINKS, CommandLine, command_line
from mbls.config.cli import resolve as resolved
from mbls.runtime.errors import ChoiceError
from tests.grouped import merged

LINKED = {target.rpartition(".")[2] for targets in LINKS.values() for target in targets}


@functools.cache
def command_parser() -> LightningArgumentParser:
    """The parser of the real command line; to build it costs as much as to parse with it."""
    with patch.object(CommandLine, "parse_arguments", side_effect=Caught, autospec=True) as parse:
        with pytest.raises(Caught):
            command_line(["fit"])
        return parse.call_args.args[1]


class Caught(Exception):  # noqa: N818
    pass


def resolve(capsys: pytest.CaptureFixture[str], files: list[Path]) -> dict[str, Any]:
    """Parse layered files as the command line does, and return what it would run."""
    args = [arg for file in files for arg in ("--config", str(file))]
    with pytest.raises(SystemExit) as stop:
        command_parser().parse_args(["fit", *args, "--print_config"])
    assert not stop.value.code
    return yaml.safe_load(capsys.readouterr().out)


def stated(kind: str, name: str) -> dict[str, Any]:
    content = yaml.safe_load(choose(kind, name).read_text())
    return content["data"] if kind == "data" else content["model"][kind]


def files_for(**chosen: Any) -> list[Path]:
    defaults = {"dataset": "acdc", "loss": "ce", "network": "unet", "preset": "quick"}
    return compose(**(defaults | chosen))


@pytest.mark.parametrize("kind", ["loss", "network"])
def test_later_choice_leaves_nothing_of_an_earlier_one(
    capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    names = choices(kind)
    assert names, f"no {kind} in {config_folder()}"
    for before, name in itertools.pairwise([*names, names[0]]):
        # of a loss the earlier one alone: no other file names one, as another test makes sure
        earlier = [choose("loss", before)] if kind == "loss" else files_for(network=before)
        found = resolve(capsys, [*earlier, choose(kind, name)])["model"][kind]
        for key in LINKED & set(found["init_args"]) - set(stated(kind, name)["init_args"]):
            del found["init_args"][key]
        assert found == stated(kind, name), f"{name} after {before}"


@pytest.mark.parametrize("dataset", choices("data"))
@pytest.mark.parametrize("preset", choices("trainer"))
def test_preset_changes_its_settings_and_no_others(
    capsys: pytest.CaptureFixture[str], dataset: str, preset: str
) -> None:
    found = resolve(capsys, files_for(dataset=dataset, preset=preset))["data"]
    expected = dict(stated("data", dataset)["init_args"])
    overlay = choose("data", dataset).with_name(f"{dataset}.{preset}.yaml")
    changes = yaml.safe_load(overlay.read_text())["data"]["init_args"] if overlay.exists() else {}
    both = merged(expected, changes)
    for name, value in expected.items():  # an overlay names what the dataset's file states
        assert not isinstance(value, dict) or both[name].keys() == value.keys()
    assert both.keys() == expected.keys()
    del both["seed"]  # linked from seed_everything
    found["init_args"].pop("seed", None)
    assert found["init_args"] == both


@pytest.mark.parametrize("dataset", choices("data"))
@pytest.mark.parametrize("preset", choices("trainer"))
def test_3d_network_takes_volumes(
    capsys: pytest.CaptureFixture[str], dataset: str, preset: str
) -> None:
    files = files_for(dataset=dataset, preset=preset, network="unet3d")
    found = resolve(capsys, files)["data"]["init_args"]
    assert found["spatial_dims"] == 3
    for value in (found["sampling"]["patch_size"], found["preprocessing"]["spacing"]):
        assert value in (None, "auto") or len(value) == 3
    flat = files_for(dataset=dataset, preset=preset, network="segresnet", dims=2)
    assert not [file for file in flat if ".3d" in file.stem and file.parent.name == "data"]


def test_dataset_without_volumes(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("data: {class_path: mine.Data, init_args: {root: null}}")
    assert mine in files_for(dataset=str(mine))
    with pytest.raises(ChoiceError, match=r"3D.*mine\.3d\.yaml does not exist"):
        files_for(dataset=str(mine), network="unet3d")
    mine.write_text("data: {class_path: mine.Data, init_args: {spatial_dims: 3}}")
    assert mine in files_for(dataset=str(mine), network="unet3d")


@pytest.mark.parametrize("network", ["unet3d", "dynunet3d", "segresnet", "swinunetr"])
def test_preset_may_change_a_network(capsys: pytest.CaptureFixture[str], network: str) -> None:
    found = resolve(capsys, files_for(network=network))["model"]["network"]
    file = choose("network", network)
    overlay = yaml.safe_load(file.with_name(f"{network}.quick.yaml").read_text())
    expected = stated("network", network)["init_args"] | overlay["model"]["network"]["init_args"]
    for key in LINKED & set(found["init_args"]) - set(expected):
        del found["init_args"][key]
    assert found["init_args"] == expected


@pytest.mark.parametrize(
    "file", ["base.yaml", "trainer/quick.yaml", "trainer/small.yaml", "trainer/paper.yaml"]
)
def test_shared_files_name_no_loss_and_no_network(file: str) -> None:
    content = yaml.safe_load((config_folder() / file).read_text())
    assert not {"loss", "network"} & set(content.get("model", {}))
    assert "data" not in content


def test_paper_s_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    files = files_for(loss="mbls", network="unet_paper", preset="paper")
    found = resolve(capsys, files)
    assert found["trainer"]["max_epochs"] == 100
    assert found["model"]["optimizer"]["class_path"] == "torch.optim.Adam"
    assert found["model"]["optimizer"]["init_args"]["lr"] == 1e-3
    scheduler = found["model"]["scheduler"]
    assert scheduler["class_path"].endswith("StepLR")
    assert (scheduler["init_args"]["step_size"], scheduler["init_args"]["gamma"]) == (50, 0.1)
    assert found["data"]["init_args"]["batch_size"] == 4
    assert found["data"]["init_args"]["sampling"]["patch_size"] == [192, 192]
    changes = found["data"]["init_args"]["augmentation"]
    assert {changes[name] for name in changes if name != "probability"} == {0.0}
    loss = found["model"]["loss"]["init_args"]
    assert (loss["margin"], loss["alpha"]) == (5.0, 0.1)


@pytest.mark.parametrize("name", choices("logger"))
def test_tracker_is_added_to_the_csv(capsys: pytest.CaptureFixture[str], name: str) -> None:
    if name != "csv" and importlib.util.find_spec(name) is None:
        pytest.skip(f"needs the extra {name}")
    found = resolve(capsys, files_for(loggers=[name]))["trainer"]["logger"]
    first, *added = [logger["class_path"] for logger in found]
    assert first == "mbls.callbacks.MetricsCSV"
    stated = yaml.safe_load(choose("logger", name).read_text())["trainer"]
    assert added == [logger["class_path"] for logger in stated.get("logger+", [])]


def test_a_transform_is_resolved_to_its_stated_arguments(tmp_path: Path) -> None:
    zoom = {"keys": ["image", "label"], "prob": 0.3, "mode": ["bilinear", "nearest"]}
    stated = [("RandZoomd", zoom), ("RandGaussianSmoothd", {"keys": "image"})]
    transforms = [{"class_path": f"monai.transforms.{n}", "init_args": a} for n, a in stated]
    transform = {"class_path": "monai.transforms.Compose", "init_args": {"transforms": transforms}}
    data = {"class_path": "datamodules.ACDCDataModule", "init_args": {"transform": transform}}
    file = tmp_path / "transform.yaml"
    file.write_text(yaml.safe_dump({"data": data}))
    (found,) = resolved([[("config", str(each)) for each in (*files_for(), file)]])
    made = found["data"]["init_args"]["transform"]["init_args"]["transforms"]
    assert [
        {k: one["init_args"][k] for k in args} for one, (_, args) in zip(made, stated, strict=True)
    ] == [args for _, args in stated]
