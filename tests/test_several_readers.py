"""A run on data that several readers labeled, from the command line to the report."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from mbls.cli import main
from mbls.runtime.errors import SettingError
from tests import tiny
from tests.blobs import BlobDataModule
from tests.datamodules.test_readers import LABELS, READERS, write
from tests.forks import Forks
from tests.grouped import nested
from tests.test_module import fit, module

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trained on the readers' mean."""
    folder = tmp_path_factory.mktemp("readers")
    root = write(folder / "nodules", cases=10)
    args = tiny.train_args(folder, epochs=1)
    settings = nested(
        root=str(root), readers=READERS, labels=LABELS, cache_dir=str(folder / "cache"),
        spacing=None, normalize="zscore", patch_size=[16, 16], val_fraction=0.2,
        test_fraction=0.3, batch_size=4, phantom_root=None,
    )  # fmt: skip
    data = {"class_path": "datamodules.ImagesDataModule", "init_args": settings}
    (folder / "data" / "blobs.yaml").write_text(yaml.safe_dump({"data": data}))
    assert main(["train", *args, "--raters", "mean"]) == 0
    return tiny.run_folder(folder)


def test_files_and_screen(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["init_args"]["sampling"]["raters"] == "mean"
    metrics = json.loads((run / "test/best/metrics.json").read_text())
    assert metrics["meta"]["posterior"] == "readers"
    cells = metrics["sound"]["all"]["per_case"]
    cases = pd.read_csv(run / "test/best/cases.csv")
    for key in ("true_ece", "readers_ece", "readers_cece"):
        assert cells[key]["value"] == pytest.approx(cases[f"{key}/all"].mean(), rel=1e-12)
    assert metrics["curvas"]["all"]["per_case"]["ece"]["n_cases"] == len(cases)


def test_report(run: Path, tmp_path: Path) -> None:
    assert main(["report", str(run), "--output", str(tmp_path), "--no-pictures"]) == 0
    columns = (tmp_path / "table.csv").read_text()
    assert "readers_ece/all/pooled" in columns
    page = (tmp_path / "report.html").read_text().replace("&#39;", "'").replace("&#x27;", "'")
    assert "ECE against the readers' mean" in page
    assert "ECE against each reader, averaged" in page
    assert "phantom's known label distribution" not in page


@pytest.mark.ddp
def test_two_ranks_give_the_same_digits(run: Path, forks: Forks) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(["evaluate", str(run), "--tag", "one"]) == 0
    finally:
        torch.set_num_threads(before)
    forks.ranks("evaluate", str(run), "--tag", "two")
    with np.load(run / "test/one/bins.npz") as one, np.load(run / "test/two/bins.npz") as two:
        assert one.keys() == two.keys()
        assert one["readers"].any()
        for name in ("cells", "truth", "readers", "dice"):
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_native_grid(run: Path) -> None:
    spacing = "--data.init_args.preprocessing.spacing=[2.0,2.0]"
    assert main(["evaluate", str(run), "--grid", "native", "--tag", "native", spacing]) == 0
    with np.load(run / "test/native/bins.npz") as bins:
        voxels = bins["readers"][:, :, 0, 0, :, 0].sum(-1)
    assert (voxels == 18 * 20 * 4).all()


def test_a_datamodule_must_state_its_readers() -> None:
    class Unstated(BlobDataModule):
        def test_dataloader(self):
            loader = super().test_dataloader()
            collate = loader.collate_fn
            loader.collate_fn = lambda items: (
                (b := collate(items)) | {"readers": b["label"][:, None]}
            )
            return loader

    built = module()
    trainer = fit(built, data=Unstated(size=32))
    with pytest.raises(SettingError, match=r"labels of 1 readers, but num_readers\('test'\)"):
        trainer.test(built, Unstated(size=32), verbose=False)
