"""Every layout is read to the same arrays, and written back as it came."""

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from mbls.config.options import OPTIONS
from mbls.predictions import FORMATS, PredictionFolder, open_predictions
from mbls.predictions.axes import ORDERS
from tests.predictions.made import (
    AFFINE,
    CASES,
    SHAPE,
    label,
    probabilities,
    save,
    write_labels,
    write_nnunet,
    write_npz,
)

Write = Callable[[Path], Path]


def nnunet(root: Path) -> Path:
    return write_nnunet(root, {0: CASES[:2], 3: CASES[2:]})


def nnunet_predicted(root: Path) -> Path:
    """What ``nnUNetv2_predict --save_probabilities`` writes: one folder, with its dataset.json."""
    results = write_nnunet(root, {0: CASES})
    for path in (results / "fold_0" / "validation").iterdir():
        path.rename(results / path.name)
    shutil.rmtree(results / "fold_0")
    return results


def npz(order: str, key: str = "arr_0") -> Write:
    def write(root: Path) -> Path:
        for case in CASES:
            axes = ["cxyz".index(axis) for axis in order]
            write_npz(root / f"{case}.npz", probabilities(case).transpose(axes), key=key)
        return root

    return write


def own_export(root: Path) -> Path:
    for case in CASES:
        save(root / f"{case}_prob.nii.gz", probabilities(case).transpose(1, 2, 3, 0))
        save(root / f"{case}.nii.gz", probabilities(case).argmax(0).astype(np.uint8))
    return root


def monai(root: Path) -> Path:
    for case in CASES:
        save(root / case / f"{case}_trans.nii.gz", probabilities(case).transpose(1, 2, 3, 0))
    return root


def classes_first(root: Path) -> Path:
    for case in CASES:
        save(root / f"{case}.nii", probabilities(case))
    return root


def vector(root: Path) -> Path:
    """A vector image of ITK: five axes."""
    for case in CASES:
        save(root / f"{case}.nii.gz", probabilities(case).transpose(1, 2, 3, 0)[:, :, :, None])
    return root


def one_a_class(name: str) -> Write:
    def write(root: Path) -> Path:
        for case in CASES:
            for k, part in enumerate(probabilities(case)):
                save(root / f"{case}_{name.format(k)}.nii.gz", part)
        return root

    return write


LAYOUTS: dict[str, tuple[Write, str, str]] = {
    "nnU-Net's folds": (nnunet, "nnunet", "czyx"),
    "nnU-Net's predictions": (nnunet_predicted, "nnunet", "czyx"),
    **{f"npz {order}": (npz(order), "npz", order) for order in ORDERS},
    "npz, key softmax": (npz("czyx", "softmax"), "npz", "czyx"),
    "npz, any single key": (npz("cxyz", "mine"), "npz", "cxyz"),
    "mbls predict": (own_export, "nifti", "xyzc"),
    "monai": (monai, "nifti", "xyzc"),
    "classes first": (classes_first, "nifti", "cxyz"),
    "vector": (vector, "nifti", "xyzc"),
    "one file a class": (one_a_class("{}"), "nifti-per-class", "cxyz"),
    "one file a class, named": (one_a_class("class{}"), "nifti-per-class", "cxyz"),
}


def opened(tmp_path: Path, write: Write, **settings: object) -> PredictionFolder:
    labels = write_labels(tmp_path / "labels")
    return open_predictions(write(tmp_path / "predictions"), labels=labels, **settings)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_detected_and_read(name: str, tmp_path: Path) -> None:
    write, form, axes = LAYOUTS[name]
    source = opened(tmp_path, write)
    assert (source.format, source.axes, source.kind) == (form, axes, "classes")
    assert source.cases == source.patients == tuple(sorted(CASES))
    assert not source.notes
    for case in source.cases:
        found = source.read(case)
        assert found.case == case
        np.testing.assert_array_equal(found.probs.numpy(), probabilities(case))
        assert found.probs.dtype == torch.float32
        np.testing.assert_array_equal(found.label.numpy(), label(case))
        assert found.label.dtype == torch.int64
        assert found.spacing == pytest.approx((1.5, 1.25, 4.0))
        assert found.zero == 2.0**-150
    assert not source.renormalized


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_written_as_it_came(name: str, tmp_path: Path) -> None:
    source = opened(tmp_path, LAYOUTS[name][0])
    out = tmp_path / "out"
    for case in source.cases:
        changed = source.read(case).probs.flip(0)
        *maps, mask = source.write(out, case, changed)
        found = nib.load(mask)
        np.testing.assert_array_equal(np.asarray(found.dataobj), changed.argmax(0).numpy())
        assert found.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(found.affine, AFFINE)
        stored = source.found[case].stored
        assert [path.name for path in maps] == [path.name for path in stored.paths]
        if stored.kind != "npz":
            given = nib.load(stored.paths[0])
            for path in maps:
                assert nib.load(path).shape == given.shape
                np.testing.assert_array_equal(nib.load(path).affine, given.affine)
    again = open_predictions(out, labels=tmp_path / "labels")
    assert (again.format, again.axes, again.folds) == (source.format, source.axes, source.folds)
    assert again.class_names == source.class_names
    for case in source.cases:
        np.testing.assert_array_equal(again.read(case).probs, source.read(case).probs.flip(0))


def test_folds_are_known_and_classes_named_as_in_dataset_json(tmp_path: Path) -> None:
    source = opened(tmp_path, nnunet)
    assert source.folds == (0, 0, 3)
    assert source.name == "Dataset007_Tiny"
    assert source.class_names == ("background", "organ", "tumor")
    labels = tmp_path / "labels"
    for part in ("fold_3", "fold_3/validation"):
        one = open_predictions(source.root / part, labels=labels)
        assert (one.cases, one.folds) == (("other",), (3,))
        assert one.class_names == source.class_names
        assert one.notes == ["2 labels have no prediction: case_1, case_10."]


def test_folds_that_are_left_out_are_named(tmp_path: Path) -> None:
    source = opened(tmp_path, nnunet)
    results = source.root
    (results / "fold_2" / "validation").mkdir(parents=True)
    shutil.copytree(results / "fold_0", results / "fold_all")
    again = open_predictions(results, labels=tmp_path / "labels")
    assert again.folds == (0, 0, 3)
    assert again.notes == [
        "fold_2 has no probabilities yet and is left out (nnUNetv2_train --val --npz).",
        "fold_all is left out: its network was trained on the cases that it validates on.",
    ]


def test_labels_of_nnunet_are_found_beside_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = nnunet(tmp_path / "nnUNet_results")
    labels = write_labels(tmp_path / "nnUNet_preprocessed/Dataset007_Tiny/gt_segmentations")
    assert open_predictions(results).found["other"].label == labels / "other.nii.gz"
    moved = tmp_path / "elsewhere/Dataset007_Tiny/labelsTr"
    moved.parent.mkdir(parents=True)
    labels.rename(moved)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "elsewhere"))
    assert open_predictions(results).found["other"].label == moved / "other.nii.gz"


@pytest.mark.parametrize("ending", ["_gt", "-seg", "_mask"])
def test_endings_of_labels_are_no_part_of_the_case(ending: str, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    for case in CASES:
        save(labels / case / f"{case}{ending}.nii.gz", label(case).astype(np.int16))
        save(labels / case / f"{case}.nii.gz", np.zeros(SHAPE, np.float32))  # the image
    source = open_predictions(own_export(tmp_path / "predictions"), labels=labels)
    assert source.cases == CASES
    assert source.read("other").label.unique().tolist() == [0, 1, 2]


def test_pictures_have_no_third_axis(tmp_path: Path) -> None:
    flat = (9, 7)
    save(tmp_path / "labels/a.nii.gz", label("a", shape=flat).astype(np.uint8))
    write_npz(tmp_path / "maps/a.npz", probabilities("a", shape=flat).transpose(0, 2, 1))
    source = open_predictions(tmp_path / "maps", labels=tmp_path / "labels")
    found = source.read("a")
    np.testing.assert_array_equal(found.probs[..., 0], probabilities("a", shape=flat))
    assert found.label.shape == (9, 7, 1)
    paths = source.write(tmp_path / "out", "a", found.probs)
    assert np.load(paths[0])["probabilities"].shape == (3, 7, 9)
    assert nib.load(paths[1]).shape == flat


def test_values_and_names_of_the_classes(tmp_path: Path) -> None:
    values = np.array([0, 2, 4], np.int16)
    for case in CASES:
        save(tmp_path / "labels" / f"{case}.nii.gz", values[label(case)])
    root = own_export(tmp_path / "maps")
    source = open_predictions(
        root, labels=tmp_path / "labels", label_values=[0, 2, 4], class_names=["bg", "a", "b"]
    )
    np.testing.assert_array_equal(source.read("other").label, label("other"))
    assert source.class_names == ("bg", "a", "b")
    *_, mask = source.write(tmp_path / "out", "other", source.read("other").probs)
    found = np.asarray(nib.load(mask).dataobj)
    np.testing.assert_array_equal(found, values[probabilities("other").argmax(0)])


def test_dataset_json_next_to_labels_names_classes_and_unions(tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labelsTr")
    text = '{"labels": {"background": 0, "organ": [1, 2], "tumor": 2}}'
    (tmp_path / "dataset.json").write_text(text)
    source = open_predictions(own_export(tmp_path / "maps"), labels=labels)
    assert source.class_names == ("background", "label 1", "tumor")
    assert source.unions == {"organ": (1, 2)}
    (tmp_path / "dataset.json").write_text('{"labels": {"0": "nothing", "1": "a", "2": "b"}}')
    named = open_predictions(tmp_path / "maps", labels=labels)
    assert named.class_names == ("nothing", "a", "b")


def test_ignored_voxels(tmp_path: Path) -> None:
    names = {"background": 0, "organ": 1, "tumor": 2, "ignore": 3}
    results = write_nnunet(tmp_path, {0: ["a"]}, labels=names)
    given = label("a").astype(np.uint8)
    given[0] = 3
    save(tmp_path / "labels/a.nii.gz", given)
    found = open_predictions(results, labels=tmp_path / "labels").read("a").label
    assert (found[0] == -100).all()
    np.testing.assert_array_equal(found[1:], label("a")[1:])


REGIONS = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}


def test_regions_of_nnunet(tmp_path: Path) -> None:
    results = write_nnunet(
        tmp_path, {0: ["a"]}, labels=REGIONS, classes=2, regions_class_order=[1, 2]
    )
    given = label("a").astype(np.uint8)
    given[0] = 3
    save(tmp_path / "labels/a.nii.gz", given)
    source = open_predictions(results, labels=tmp_path / "labels")
    assert (source.kind, source.class_names) == ("regions", ("whole", "core"))
    found = source.read("a")
    assert found.regions
    assert (found.label[:, 0] == -100).all()
    np.testing.assert_array_equal(found.label[0, 1:], given[1:] > 0)
    np.testing.assert_array_equal(found.label[1, 1:], given[1:] == 2)
    probs = torch.tensor([0.9, 0.2, 0.9, 0.2])[:, None, None, None].expand(4, *SHAPE)
    whole = torch.cat([probs[:1], probs[1:2]])
    *_, mask = source.write(tmp_path / "out", "a", whole)
    assert (np.asarray(nib.load(mask).dataobj) == 1).all()
    *_, mask = source.write(tmp_path / "out", "a", whole.flip(0))  # the core alone
    assert (np.asarray(nib.load(mask).dataobj) == 2).all()
    *_, mask = source.write(tmp_path / "out", "a", whole * 0 + 0.5)  # not above
    assert (np.asarray(nib.load(mask).dataobj) == 0).all()
    again = open_predictions(tmp_path / "out", labels=tmp_path / "labels")
    assert again.kind == "regions"


def test_stated_regions_in_one_file_each(tmp_path: Path) -> None:
    save(tmp_path / "labels/a.nii.gz", label("a").astype(np.uint8))
    for name, part in zip(("WT", "ET"), probabilities("a"), strict=False):
        save(tmp_path / f"maps/a_{name}.nii.gz", part)
    source = open_predictions(tmp_path / "maps", labels=tmp_path / "labels", regions="WT=1,2 ET=2")
    found = source.read("a")
    np.testing.assert_array_equal(found.probs, probabilities("a")[:2])
    np.testing.assert_array_equal(found.label[1], label("a") == 2)
    assert source.channels.order == (1, 2)


def test_patients(tmp_path: Path) -> None:
    source = opened(tmp_path, own_export, patient="^([a-z]+)")
    assert source.patients == ("case", "case", "other")
    assert open_predictions(source.root, labels=tmp_path / "labels", patient="^.").patients == (
        "c", "c", "o",
    )  # fmt: skip


def test_options_are_those_of_the_library() -> None:
    choices = {o.name: o.choices for o in OPTIONS if o.of("audit") and o.choices}
    assert choices == {"format": FORMATS, "axes": ORDERS}
