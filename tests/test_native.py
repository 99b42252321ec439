"""A 3D run: scored on the grids of the files, where its predictions are written too."""

import json
import shutil
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
        for tag in ("best", "best-native-mirrored-01")
    }
    assert metas["best"]["grid"] == "preprocessed"
    assert metas["best"]["mirror"] == []
    assert metas["best-native-mirrored-01"]["grid"] == "native"
    assert metas["best-native-mirrored-01"]["mirror"] == [0, 1]


def test_other_patients_and_other_data_get_a_folder_of_their_own(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = run.parents[3] / "ACDC" / "database"
    moved, other = (shutil.copytree(root, tmp_path / name / "database") for name in "ab")
    shutil.rmtree(other / "testing" / "patient101")
    split = tmp_path / "ours.json"
    names = {"train": ["patient001"], "val": ["patient002"], "test": ["patient008"]}
    split.write_text(json.dumps(names))
    results = run / "test/best/metrics.json"
    before = results.stat().st_mtime_ns
    assert main(["evaluate", str(run), "--split", str(split)]) == 0
    cases = (run / "test/best-ours/cases.csv").read_text()
    assert "patient008" in cases
    assert "patient101" not in cases
    assert main(["evaluate", str(run), "--data.init_args.root", str(other)]) == 1
    told = capsys.readouterr().err
    assert f"{results.parent} is for the results of other data" in told
    assert "TAG=NAME (--tag)" in told
    assert results.stat().st_mtime_ns == before
    words = ["--data.init_args.root", str(other), "--tag", "b"]
    assert main(["evaluate", str(run), *words]) == 0
    assert (run / "test/b/metrics.json").is_file()
    assert main(["evaluate", str(run), "--data.init_args.root", str(moved)]) == 0  # the same data
    assert results.stat().st_mtime_ns > before


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
