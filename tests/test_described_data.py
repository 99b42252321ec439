"""Runs on data that describe themselves: what was chosen is kept, other sites are tested."""

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from datamodules import DataError, HippocampusDataModule
from mbls.callbacks.predictions import PredictionWriter, _is_foreign
from mbls.cli import main
from mbls.commands.evaluate import tag_of
from mbls.config.options import with_nulls
from mbls.config.runs import root_name
from tests import tiny
from tests.datamodules.tiny_files import write_decathlon, write_images, write_json, write_nnunet

LAYOUTS = {"nnunet": write_nnunet, "images": write_images}


def train(folder: Path, layout: str, root: Path, *more: str) -> Path:
    """Train one epoch with nothing but the folder given; return the run folder."""
    network = tiny.train_args(folder, epochs=1)[3]
    run = folder / f"run-{layout}"
    args = [
        "train", "--dataset", layout, "--data-root", str(root), "--loss", "ce",
        "--network", network, "--preset", "quick", "--epochs", "1", "--accelerator", "cpu",
        "--trainer.enable_progress_bar", "false", "--run", str(run), "--batch-size", "2",
        "--cache", str(folder / "cache"), *more,
    ]  # fmt: skip
    assert main(args) == 0
    return run


def config_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]
    return found


@pytest.fixture(scope="module")
def nnunet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a dataset of nnU-Net and a run on it."""
    folder = tmp_path_factory.mktemp("nnunet")
    root = write_nnunet(folder / "Dataset007_Test", cases=16)
    return root, train(folder, "nnunet", root)


def test_what_was_chosen_is_in_the_configuration(nnunet: tuple[Path, Path]) -> None:
    _, run = nnunet
    config = config_of(run)
    assert config["name"] == "Dataset007_Test"
    assert config["labels"] == {"background": 0, "shell": 1, "core": 2}
    assert config["channels"] == ["MRI"]
    assert config["preprocessing"]["spacing"] == [1.5, 1.5]
    assert config["preprocessing"]["normalize"] == "zscore"
    assert config["sampling"]["patch_size"] == [20, 24]
    meta = json.loads((run / "test/best/metrics.json").read_text())["meta"]
    assert meta["dataset"] == "Dataset007_Test"
    assert meta["origin"] == "real"


def test_predictions_need_no_data_root(nnunet: tuple[Path, Path], tmp_path: Path) -> None:
    root, run = nnunet
    hidden = root.with_name("hidden")
    root.rename(hidden)
    try:
        image = hidden / "imagesTr" / "case_000_0000.nii.gz"
        args = ["--input", str(image), "--output", str(tmp_path / "out"), "--accelerator", "cpu"]
        assert main(["predict", "--run", str(run), *args]) == 0
    finally:
        hidden.rename(root)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["case_000.nii.gz"]


def test_another_site_is_tested_on_all_its_patients(
    nnunet: tuple[Path, Path], tmp_path: Path
) -> None:
    _, run = nnunet
    site = write_nnunet(tmp_path / "SiteB", cases=5)
    for file in [*site.glob("*/case_*")]:
        file.rename(file.with_name(file.name.replace("case", "b")))
    options = ["--cache", str(tmp_path / "cache"), "--accelerator", "cpu"]
    assert main(["evaluate", str(run), "--data-root", str(site), *options]) == 0
    meta = json.loads((run / "test/best-SiteB/metrics.json").read_text())["meta"]
    assert (meta["n_cases"], meta["dataset"]) == (5, "Dataset007_Test on SiteB")
    split = tmp_path / "two.json"
    split.write_text(json.dumps({"test": ["b_001", "b_003"]}))
    more = ["--split", str(split), *options]
    assert main(["evaluate", str(run), "--data-root", str(site), *more]) == 0
    meta = json.loads((run / "test/best-SiteB-two/metrics.json").read_text())["meta"]
    assert meta["n_cases"] == 2


def test_own_data_at_another_place_keep_their_split(
    nnunet: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root, run = nnunet
    shutil.copytree(root, tmp_path / "moved")
    options = ["--cache", str(tmp_path / "cache"), "--accelerator", "cpu", "--tag", "moved"]
    assert main(["evaluate", str(run), "--data-root", str(tmp_path / "moved"), *options]) == 0
    assert "own data" in capfd.readouterr().out
    first, again = (
        json.loads((run / "test" / tag / "metrics.json").read_text()) for tag in ("best", "moved")
    )
    assert first["meta"]["n_cases"] == again["meta"]["n_cases"]
    assert first["dice"] == again["dice"]


def test_another_site_with_some_of_the_names_is_warned_of(
    nnunet: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root, run = nnunet
    shutil.copytree(root, tmp_path / "part")
    trained = json.loads((run / "run.json").read_text())["trained_on"]
    for file in tmp_path.glob(f"part/*/{trained[0]}*"):
        file.unlink()
    options = ["--cache", str(tmp_path / "cache"), "--accelerator", "cpu"]
    assert main(["evaluate", str(run), "--data-root", str(tmp_path / "part"), *options]) == 0
    assert f"{len(trained) - 1} patients" in capfd.readouterr().out
    unseen = sorted({f"case_{k:03d}" for k in range(16)} - set(trained))
    split = tmp_path / "unseen.json"
    split.write_text(json.dumps({"test": unseen}))
    more = ["--split", str(split), *options]
    assert main(["evaluate", str(run), "--data-root", str(tmp_path / "part"), *more]) == 0
    assert "Warning" not in capfd.readouterr().out


def test_folds_of_nnunet_have_no_test_part_for_another_site(
    nnunet: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, run = nnunet
    site = write_nnunet(tmp_path / "SiteD", cases=4)
    folds = tmp_path / "splits_final.json"
    folds.write_text(json.dumps([{"train": ["case_000"], "val": ["case_001"]}]))
    options = ["--cache", str(tmp_path / "cache"), "--accelerator", "cpu"]
    given = ["--data-root", str(site), "--split", str(folds), "--fold", "0"]
    assert main(["evaluate", str(run), *given, *options]) != 0
    assert "must have the part test" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("root", "name"), [("a/SiteB", "SiteB"), ("a/b/..", "a"), ("a/cases.csv", "a"), ("b.csv", "b")]
)
def test_a_site_is_named_by_its_folder_or_table(root: str, name: str) -> None:
    assert root_name(Path(root)) == name
    given = [("data.init_args.division.external", "true"), ("data.init_args.root", root)]
    assert tag_of("best", given, {}) == f"best-{name}"


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (["--data.init_args.division.fold=null"], ['--data.init_args.division={"fold": null}']),
        (["--data.init_args.labels", '{"background": 0,\n"liver": 1}'], None),
        (["--data.init_args.sampling.crop", "random", "--data.init_args.patient", "null"], None),
        (["--data.init_args.division.fold"], None),
    ],
)
def test_nulls_in_fields_keep_other_arguments(args: list[str], found: list[str] | None) -> None:
    assert with_nulls(args) == (found or args)


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"labels": {"background": 0, "core": 1, "shell": 2}}, "label 1 must be shell"),
        ({"labels": {"background": 0, "shell": 1, "core": 2, "rim": 3}}, r"rim (3)"),
        ({"channel_names": {"0": "T1", "1": "T2"}}, "1 channels"),
    ],
)
def test_another_site_with_other_labels_or_channels(
    changes: dict[str, Any],
    fact: str,
    nnunet: tuple[Path, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    _, run = nnunet
    site = write_nnunet(tmp_path / "SiteC", cases=4, channels=changes.get("channel_names", "0"))
    for file in [*site.glob("*/case_*")]:
        file.rename(file.with_name(file.name.replace("case", "c")))
    write_json(site, json.loads((site / "dataset.json").read_text()) | changes)
    options = ["--cache", str(tmp_path / "cache"), "--accelerator", "cpu"]
    assert main(["evaluate", str(run), "--data-root", str(site), *options]) != 0
    assert fact in capfd.readouterr().err


def test_pictures_are_predicted_as_pictures(tmp_path: Path) -> None:
    root = write_images(tmp_path / "cells", cases=16, color=True)
    labels = '{"background": "#000000", "shell": "#ff0000", "core": "#0000ff"}'
    run = train(tmp_path, "images", root, "--data.init_args.labels", labels)
    inputs, out = root / "images", tmp_path / "out"
    args = ["--run", str(run), "--output", str(out), "--accelerator", "cpu", "--probabilities"]
    assert main(["predict", "--input", str(inputs), *args]) == 0
    names = {file.name for file in out.iterdir()}
    assert {"p0_0.png", "p0_0_prob.nii.gz"} <= names
    pixels = np.asarray(Image.open(out / "p0_0.png"))
    assert pixels.shape == (40, 32, 3)
    colors = {tuple(color) for color in pixels.reshape(-1, 3).tolist()}
    assert colors <= {(0, 0, 0), (255, 0, 0), (0, 0, 255)}
    assert main(["predict", "--input", str(inputs), *args]) == 0  # its own are replaced
    Image.fromarray(255 - pixels).save(out / "p0_0.png")
    assert main(["predict", "--input", str(inputs), *args]) != 0


@pytest.mark.parametrize(
    ("largest", "shape", "dtype"),
    [(255, (4, 3), np.uint8), (300, (4, 3), np.uint16), (0xFF0000, (4, 3, 3), np.uint8)],
)
def test_pictures_of_a_dataset_are_of_one_kind(
    largest: int, shape: tuple[int, ...], dtype: Any, tmp_path: Path
) -> None:
    nothing = np.zeros((4, 3), np.uint8)  # no class that needs colors or 16 bits
    PredictionWriter(output=tmp_path)._save_picture("a.png", nothing, largest=largest)
    pixels = np.asarray(Image.open(tmp_path / "a.png"))
    assert (pixels.shape, pixels.dtype) == (shape, dtype)
    assert not _is_foreign(tmp_path / "a.png")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Serve ``tmp_path`` on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_hippocampus_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    archive = tmp_path / "Task04_Hippocampus.tar"
    write_decathlon(tmp_path / "source" / "Task04_Hippocampus")
    shutil.make_archive(str(archive.with_suffix("")), "tar", tmp_path / "source")
    monkeypatch.setattr(HippocampusDataModule, "home", tmp_path / "data" / "Task04_Hippocampus")
    monkeypatch.setattr(HippocampusDataModule, "url", f"{server}/{archive.name}")
    with pytest.raises(DataError, match=HippocampusDataModule.md5):
        HippocampusDataModule(cache_dir=tmp_path / "cache").prepare(progress=False)
    assert not [*(tmp_path / "data").iterdir()]
    digest = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(HippocampusDataModule, "md5", digest)
    data = HippocampusDataModule(cache_dir=tmp_path / "cache")
    data.prepare(progress=False)
    assert len([case for part in ("train", "val", "test") for case in data.cases(part)]) == 10
    assert data.origin == "real"
    archive.unlink()
    HippocampusDataModule(cache_dir=tmp_path / "cache").prepare(progress=False)  # it is there
    monkeypatch.setattr(HippocampusDataModule, "home", tmp_path / "other" / "Task04_Hippocampus")
    with pytest.raises(DataError, match="DATA_ROOT"):
        HippocampusDataModule(cache_dir=tmp_path / "cache").prepare(progress=False)
