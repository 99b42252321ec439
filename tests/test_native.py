"""A 3D run: scored on the grids of the files, where its predictions are written too."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mbls.cli import main
from tests import few_acdc, tiny

NAMES = ("right ventricle", "myocardium", "left ventricle")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, no_figures: None) -> Path:
    """The folder of a trained 3D run on another voxel size than the files'."""
    folder = tmp_path_factory.mktemp("deep")
    settings = {"spatial_dims": 3, "patch_size": [16, 16, 4], "spacing": [1.2, 1.3, 7.0]}
    sampling = {"samples_per_case": 2, "foreground": 0.5, "batch_size": 4}
    assert main(["train", *few_acdc.words(folder, **settings, **sampling)]) == 0
    return tiny.run_folder(folder)


def test_both_grids_are_scored_and_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--grid", "native", "--mirror", "0,1"]) == 0
    assert "native grid · mirrored" in " ".join(capsys.readouterr().out.split())
    metas = {
        tag: json.loads((run / "test" / tag / "metrics.json").read_text())["meta"]
        for tag in ("best", "best-native-mirrored")
    }
    assert metas["best"]["grid"] == "preprocessed"
    assert metas["best"]["mirror"] == []
    assert metas["best-native-mirrored"]["grid"] == "native"
    assert metas["best-native-mirrored"]["mirror"] == [0, 1]


def test_native_scores_are_those_of_the_written_predictions(run: Path, tmp_path: Path) -> None:
    """The Dice of a native test is that of the label maps that predict writes for the files."""
    assert main(["evaluate", str(run), "--grid", "native"]) == 0
    scored = json.loads((run / "test" / "best-native" / "metrics.json").read_text())["dice"]
    root = run.parents[3] / "ACDC" / "database" / "testing"
    scores: dict[int, list[float]] = {1: [], 2: [], 3: []}
    labels = sorted(root.glob("*/*_gt.nii.gz"))[:3]
    for path in labels:
        image = path.with_name(path.name.replace("_gt", ""))
        words = ["--run", str(run), "--input", str(image), "--output", str(tmp_path)]
        assert main(["predict", *words]) == 0
        found = nib.load(tmp_path / image.name)
        truth = nib.load(path)
        assert found.shape == truth.shape
        np.testing.assert_allclose(found.affine, truth.affine)
        a, b = np.asarray(found.dataobj), np.asarray(truth.dataobj)
        for k, values in scores.items():
            values.append(2 * ((a == k) & (b == k)).sum() / ((a == k).sum() + (b == k).sum()))
    for key, values in zip(NAMES, scores.values(), strict=True):
        assert scored[key]["value"] == pytest.approx(np.mean(values), abs=1e-6)
