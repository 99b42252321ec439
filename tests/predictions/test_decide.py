"""``mbls decide`` and ``mbls audit --decide``: masks of any program's probabilities, by a rule."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from mbls.cli import main
from mbls.decisions import Guarantee, OptimalDice, Promise, Thresholds, optimal_dice
from mbls.evaluation import TestRun
from tests.predictions import made

FOLDS = {0: made.CASES[:2], 1: made.CASES[2:]}


@pytest.fixture
def nnunet(tmp_path: Path) -> Path:
    return made.write_nnunet(tmp_path, FOLDS)


def written(output: Path) -> dict[str, np.ndarray]:
    """Return the label maps in a folder by case."""
    files = sorted(output.rglob("*.nii.gz"))
    return {f.name.removesuffix(".nii.gz"): np.asarray(nib.load(f).dataobj) for f in files}


def thresholds(folder: Path, **changes: object) -> Path:
    """Write a file of thresholds that were chosen on other cases."""
    content = {
        "target": "dice", "class_keys": ("background", "organ", "tumor"),
        "values": {"organ": 0.6, "tumor": 0.1}, "unions": {}, "reached": {}, "cases": ("x",),
        "patients": ("x",),
    }  # fmt: skip
    Thresholds(**content | changes).save(folder / "chosen.json")
    return folder / "chosen.json"


def test_dice_optimal_masks(nnunet: Path, tmp_path: Path) -> None:
    assert main(["decide", "dice", str(nnunet), str(tmp_path / "out")]) == 0
    found = written(tmp_path / "out")
    assert sorted(found) == sorted(made.CASES)
    for case, label in found.items():
        probs = torch.from_numpy(made.probabilities(case))
        assert np.array_equal(label, OptimalDice().label_map(probs[None])[0])
        assert not np.array_equal(label, probs.argmax(0))
    like = nib.load(next((tmp_path / "out").rglob("other.nii.gz")))
    assert np.allclose(like.affine, made.AFFINE)
    assert like.get_data_dtype() == np.uint8
    assert not list((tmp_path / "out").rglob("*.npz"))


def promised(folder: Path, **changes: Any) -> Path:
    """Write a guarantee that was calibrated on other cases."""
    names = ("organ", "tumor")
    content: dict[str, Any] = {
        "family": "threshold", "promise": Promise(0.1), "structures": names,
        "class_keys": ("background", *names), "outer": {"organ": 0.25, "tumor": None},
        "inner": {"organ": 0.75, "tumor": None}, "numbers": dict.fromkeys(names, 9),
        "cases": ("x",), "patients": ("x",),
    }  # fmt: skip
    Guarantee(**content | changes).save(folder / "promised.json")
    return folder / "promised.json"


def test_masks_of_a_guarantee(nnunet: Path, tmp_path: Path, capfd: Any) -> None:
    assert main(["decide", str(promised(tmp_path)), str(nnunet), str(tmp_path / "out")]) == 0
    assert "predictions of the program that was audited" in " ".join(capfd.readouterr().out.split())
    found = written(tmp_path / "out")
    for case in made.CASES:
        organ = made.probabilities(case)[1].astype(np.float32)
        assert np.array_equal(found[f"{case}_outer_organ"], organ > np.float32(0.25))
        assert np.array_equal(found[f"{case}_inner_organ"], organ > np.float32(0.75))
        assert found[f"{case}_outer_tumor"].all()  # nothing less can be promised
        assert not found[f"{case}_inner_tumor"].any()
    assert len(found) == 4 * len(made.CASES)
    like = nib.load(next((tmp_path / "out").rglob("other_outer_organ.nii.gz")))
    assert np.allclose(like.affine, made.AFFINE)


def test_a_guarantee_of_other_classes_is_refused(
    nnunet: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    file = promised(tmp_path, class_keys=("background", "liver", "tumor"))
    assert "is of the 3 classes background, liver" in refusal(
        "decide", str(file), str(nnunet), str(tmp_path / "out")
    )


def test_argmax_and_thresholds(nnunet: Path, tmp_path: Path) -> None:
    for how, name in (("argmax", "likeliest"), (str(thresholds(tmp_path)), "above")):
        assert main(["decide", how, str(nnunet), str(tmp_path / name)]) == 0
    chosen = Thresholds.load(tmp_path / "chosen.json")
    for case, label in written(tmp_path / "above").items():
        probs = torch.from_numpy(made.probabilities(case))
        assert np.array_equal(label, chosen.label_map(probs[None])[0])
    for case, label in written(tmp_path / "likeliest").items():
        assert np.array_equal(label, made.probabilities(case).argmax(0))


def test_label_values_are_those_of_the_labels(tmp_path: Path) -> None:
    root = made.write_nnunet(tmp_path, FOLDS, labels={"background": 0, "organ": 4, "tumor": 300})
    for file in root.rglob("*.nii.gz"):
        file.unlink()  # of other values
    labels = tmp_path / "labels"
    for case in made.CASES:
        made.save(labels / f"{case}.nii.gz", np.array([0, 4, 300], np.int16)[made.label(case)])
    args = ["--labels", str(labels), str(root), str(tmp_path / "out")]
    assert main(["decide", "dice", *args]) == 0
    assert {v for label in written(tmp_path / "out").values() for v in np.unique(label)} == {
        0, 4, 300,
    }  # fmt: skip


def test_regions_each_have_their_own_mask(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    root = made.write_nnunet(tmp_path, FOLDS, labels=labels, classes=2, regions_class_order=[1, 2])
    assert main(["decide", "dice", str(root), str(tmp_path / "out")]) == 0
    for case, label in written(tmp_path / "out").items():
        probs = torch.from_numpy(made.probabilities(case, 2))
        masks = [p > (d / 2).float() for p, d in zip(probs, optimal_dice(probs[None])[0])]  # noqa: B905
        expected = torch.where(masks[1], 2, torch.where(masks[0], 1, 0))
        assert np.array_equal(label, expected)


def test_an_audit_of_decided_masks_is_a_test_of_its_own(nnunet: Path, tmp_path: Path) -> None:
    args = ["audit", str(nnunet), "--labels", str(made.write_labels(tmp_path / "labels")),
            "--output", str(tmp_path / "run"), "--name", "theirs"]  # fmt: skip
    assert main(args) == 0
    assert main([*args, "--decide", "dice"]) == 0
    before, after = (
        TestRun.load(tmp_path / f"run/test/{tag}/bins.npz") for tag in ("best", "best+optimal-dice")
    )
    assert np.array_equal(before.bins.cells, after.bins.cells)
    assert after.meta["decision"] == "optimal-dice"
    for place, case in enumerate(after.cases):
        probs = torch.from_numpy(made.probabilities(case))
        label = OptimalDice().label_map(probs[None])[0].numpy()
        sizes = [(label == k).sum() for k in range(3)]
        assert after.dice[place, :3, 1].tolist() == sizes
    changed = sum(after.meta["changed_voxels"])
    assert changed > 0
    assert json.loads((tmp_path / "run/test/best+optimal-dice/metrics.json").read_text())


def test_what_does_not_fit_is_refused(
    nnunet: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    labels = str(made.write_labels(tmp_path / "labels"))
    out, root = str(tmp_path / "out"), str(nnunet)
    assert "Did you mean 'dice'?" in refusal("decide", "dise", root, out)
    assert "For other predictions name the file" in refusal("decide", "threshold", root, out)
    other = thresholds(tmp_path, class_keys=("background", "a", "b"), values={"a": 0.5, "b": 0.5})
    assert "3 classes background, a, b" in refusal("decide", str(other), root, out)
    seen = str(thresholds(tmp_path, patients=("case_1",)))
    message = refusal("audit", root, "--labels", labels, "--output", out, "--decide", seen)
    assert "chosen on 1 of these patients (case_1)" in message
    assert not Path(out).exists()
