"""A 3D run: scored on the grids of the files, where its predictions are written too."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mbls.cli import main
from tests import few, tiny

NAMES = ("right ventricle", "myocardium", "left ventricle")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a trained 3D run on another voxel size than the files'."""
    folder = tmp_path_factory.mktemp("deep")
    settings = {"spatial_dims": 3, "patch_size": [16, 16, 4], "spacing": [1.2, 1.3, 7.0]}
    sampling = {"samples_per_case": 2, "foreground": 0.5, "batch_size": 4}
    assert main(["train", *few.acdc_args(folder, **settings, **sampling)]) == 0
    return tiny.run_folder(folder)


def test_other_patients_and_other_data_need_another_tag(
    run: Path, tmp_path: Path, refusal: Callable[..., str]
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
    error = refusal("evaluate", str(run), "--data.init_args.root", str(other))
    assert str(results.parent) in error
    assert "--tag" in error
    assert results.stat().st_mtime_ns == before
    assert main(["evaluate", str(run), "--data.init_args.root", str(moved)]) == 0  # the same data
    assert results.stat().st_mtime_ns > before


def test_native_scores_are_those_of_the_written_predictions(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Dice of a native test is that of the label maps that predict writes for the files."""
    assert main(["evaluate", str(run), "--grid", "native", "--mirror", "0,1"]) == 0
    assert "native grid · mirrored" in " ".join(capsys.readouterr().out.split())
    metrics = {
        tag: json.loads((run / "test" / tag / "metrics.json").read_text())
        for tag in ("best", "best-native-mirrored-01")
    }
    settings = {tag: (m["meta"]["grid"], m["meta"]["mirror"]) for tag, m in metrics.items()}
    assert settings == {"best": ("preprocessed", []), "best-native-mirrored-01": ("native", [0, 1])}
    scored = metrics["best-native-mirrored-01"]["dice"]

    root = run.parents[3] / "ACDC" / "database" / "testing"
    labels = sorted(root.glob("*/*_gt.nii.gz"))[:3]
    given, output = tmp_path / "in", tmp_path / "out"
    given.mkdir()
    images = [path.with_name(path.name.replace("_gt", "")) for path in labels]
    for image in images:
        shutil.copy(image, given)
    args = ["--run", str(run), "--input", str(given), "--output", str(output), "--mirror", "0,1"]
    assert main(["predict", *args]) == 0
    scores: dict[int, list[float]] = {1: [], 2: [], 3: []}
    for path, image in zip(labels, images, strict=True):
        found, truth = nib.load(output / image.name), nib.load(path)
        assert found.shape == truth.shape
        np.testing.assert_allclose(found.affine, truth.affine)
        a, b = np.asarray(found.dataobj), np.asarray(truth.dataobj)
        for k, values in scores.items():
            values.append(2 * ((a == k) & (b == k)).sum() / ((a == k).sum() + (b == k).sum()))
    for key, values in zip(NAMES, scores.values(), strict=True):
        assert scored[key]["value"] == pytest.approx(np.mean(values), abs=1e-6)
