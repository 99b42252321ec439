"""What is no probability, or is elsewhere than its label, is found and named with a way out."""

import gzip
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mbls.predictions import open_predictions
from mbls.runtime.errors import PredictionError
from tests.predictions.made import (
    AFFINE,
    SHAPE,
    label,
    probabilities,
    save,
    write_labels,
    write_nnunet,
    write_npz,
)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write_labels(tmp_path / "labels", ["a"])


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    return tmp_path / "maps"


def refused(maps: Path, labels: Path, **settings: object) -> str:
    """Open and read all cases; return the message of the error that this must raise."""

    def read_all() -> None:
        source = open_predictions(maps, labels=labels, **settings)
        for case in source.cases:
            source.read(case)

    with pytest.raises(PredictionError) as error:
        read_all()
    return str(error.value)


CONTENT: dict[str, tuple[Callable[[np.ndarray], np.ndarray], tuple[str, ...]]] = {
    "logits": (lambda p: 10 * p - 5, ("a: ", "a.npz has numbers from -", "logits", "softmax")),
    "log-probabilities": (lambda p: np.log(p) - 1, ("logits, not probabilities",)),
    "percent": (lambda p: 100 * p, ("percentages", "Divide them by 100")),
    "overshoot": (lambda p: 1.1 * p - 0.05, ("resampled by splines",)),
    "NaN": (lambda p: np.where(p > 0.99, np.nan, p), ("a: ", "a.npz", "NaN", "predict it again")),
    "infinite": (lambda p: np.where(p > 0.99, np.inf, p), ("infinite",)),
    "sum": (
        lambda p: 0.9 * p,
        ("a: the 3 probabilities", "0.9", "in 315 of 315 voxels", "--regions"),
    ),
    "just off": (lambda p: p * np.float32(1 + 2e-4), ("sum to 1.0002", "more than 0.0001")),
}


@pytest.mark.parametrize("name", CONTENT)
def test_numbers_that_are_no_probabilities(name: str, maps: Path, labels: Path) -> None:
    change, facts = CONTENT[name]
    write_npz(maps / "a.npz", change(probabilities("a")))
    message = refused(maps, labels)
    for fact in facts:
        assert fact in message


def test_float32_within_the_metrics_own_tolerance_is_untouched(maps: Path, labels: Path) -> None:
    given = probabilities("a") * np.float32(1 + 5e-5)
    write_npz(maps / "a.npz", given)
    source = open_predictions(maps, labels=labels)
    np.testing.assert_array_equal(source.read("a").probs, given)
    assert not source.renormalized


def test_half_precision_is_told_widened_and_renormalized(maps: Path, labels: Path) -> None:
    given = probabilities("a").astype(np.float16)
    write_npz(maps / "a.npz", given)
    source = open_predictions(maps, labels=labels)
    (note,) = source.notes
    assert note.startswith("1 of 1 maps are float16, widened to float32")
    found = source.read("a")
    wide = given.astype(np.float32)
    off = np.abs(wide.sum(0) - 1) > 1e-4
    assert 0 < off.sum() < off.size
    assert source.renormalized == {"a": off.sum()}
    np.testing.assert_array_equal(found.probs[:, ~off], wide[:, ~off])
    np.testing.assert_allclose(found.probs[:, off], (wide / wide.sum(0))[:, off], rtol=1e-6)
    assert found.probs.dtype == torch.float32
    assert found.zero == 2.0**-25
    write_npz(maps / "a.npz", (1.002 * probabilities("a")).astype(np.float16))
    assert "float16" in refused(maps, labels)


@pytest.mark.parametrize("scaled", [False, True])
def test_quantized_to_8_bits(scaled: bool, maps: Path, labels: Path) -> None:
    steps = np.rint(255 * probabilities("a")).astype(np.uint8)
    if scaled:
        image = save(maps / "a.nii.gz", steps.transpose(1, 2, 3, 0))
        with gzip.open(image) as file:
            content = bytearray(file.read())
        content[112:120] = np.array([1 / 255, 0], np.float32).tobytes()  # scl_slope, scl_inter
        image.write_bytes(gzip.compress(bytes(content)))
    else:
        write_npz(maps / "a.npz", steps)
    source = open_predictions(maps, labels=labels)
    assert "uint8 with steps of 0.00392, widened" in source.notes[0]
    found = source.read("a")
    assert found.probs.sum(0).numpy() == pytest.approx(1, abs=1e-6)
    assert found.probs.numpy() == pytest.approx(probabilities("a"), abs=0.012)
    assert source.renormalized["a"] == (steps.sum(0, dtype=int) != 255).sum() > 0
    assert found.zero == pytest.approx(1 / 510)
    if not scaled:  # what is written is no longer quantized
        path, _ = source.write(maps.parent / "out", "a", found.probs)
        np.testing.assert_array_equal(np.load(path)["probabilities"], found.probs)


def test_label_map_in_place_of_probabilities(maps: Path, labels: Path) -> None:
    save(maps / "a.nii.gz", label("a").astype(np.uint8))
    assert "a has no axis of classes in a.nii.gz: a label map" in refused(maps, labels)
    write_npz(maps / "a.npz", label("a"))
    assert "numbers of type int64" in refused(maps, labels)


AXES: dict[str, tuple[tuple[int, ...], dict[str, object], tuple[str, ...]]] = {
    "swapped": ((0, 2, 1, 3), {}, ("(3, 7, 9, 5)", "(9, 7, 5)", "axes are swapped", "cyxz")),
    "classes within": ((1, 0, 2, 3), {}, ("(9, 3, 7, 5)", "axes are swapped. They are xcyz")),
    "named format": ((0, 1, 2, 3), {"format": "nnunet"}, ("swapped", "must be czyx", "AXES=cxyz")),
}


@pytest.mark.parametrize("name", AXES)
def test_swapped_axes(name: str, maps: Path, labels: Path) -> None:
    order, settings, facts = AXES[name]
    write_npz(maps / "a.npz", probabilities("a").transpose(order))
    message = refused(maps, labels, **settings)
    for fact in facts:
        assert fact in message


def test_axes_that_shapes_leave_open_must_be_stated(tmp_path: Path, maps: Path) -> None:
    shape = (5, 7, 5)
    save(tmp_path / "labels/a.nii.gz", label("a", shape=shape).astype(np.uint8))
    write_npz(maps / "a.npz", probabilities("a", shape=shape).transpose(0, 3, 2, 1))
    message = refused(maps, tmp_path / "labels")
    assert "may be cxyz or czyx" in message
    assert "AXES=cxyz (--axes)" in message
    source = open_predictions(maps, labels=tmp_path / "labels", axes="czyx")
    np.testing.assert_array_equal(source.read("a").probs, probabilities("a", shape=shape))
    save(tmp_path / "labels/b.nii.gz", label("b").astype(np.uint8))
    write_npz(maps / "b.npz", probabilities("b").transpose(0, 3, 2, 1))  # another case settles it
    assert open_predictions(maps, labels=tmp_path / "labels").axes == "czyx"


CUBE = (6, 6, 6)
TURNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "X and Y swapped": lambda p: p.transpose(0, 2, 1, 3),
    "Z flipped": lambda p: p[..., ::-1],
    "Y and Z swapped, X flipped": lambda p: p.transpose(0, 1, 3, 2)[:, ::-1],
}


@pytest.mark.parametrize("turn", TURNS)
def test_a_turn_that_no_shape_shows(turn: str, maps: Path, labels: Path) -> None:
    """The label map next to the probabilities refuses it; without one a note says which."""
    save(labels / "a.nii.gz", label("a", shape=CUBE).astype(np.uint8))
    given = probabilities("a", shape=CUBE)
    write_npz(maps / "a.npz", np.ascontiguousarray(TURNS[turn](given)))
    source = open_predictions(maps, labels=labels, axes="cxyz")
    source.read("a")
    (note,) = source.notes
    assert f"fits {maps / 'a.npz'} better with {turn} (mean probability" in note
    save(maps / "a.nii.gz", given.argmax(0).astype(np.uint8))
    message = refused(maps, labels, axes="cxyz")
    assert f"it would fit with {turn}?" in message
    assert "% of the voxels" in message
    write_npz(maps / "a.npz", given)
    source = open_predictions(maps, labels=labels, axes="cxyz")
    source.read("a")
    assert source.aligned
    assert not source.notes


def test_a_small_structure_elsewhere_agrees_in_most_voxels(maps: Path, labels: Path) -> None:
    shape = (20, 20, 4)
    given = np.zeros(shape, np.uint8)
    given[2:5, 10:12, 1] = 1
    save(labels / "a.nii.gz", given)
    save(maps / "a.nii.gz", given)
    inside = np.where(given, 0.9, 0.1).astype(np.float32).transpose(1, 0, 2)
    write_npz(maps / "a.npz", np.stack([1 - inside, inside]))
    assert "99.2% of the voxels (0.0% of the foreground)" in refused(maps, labels, axes="cxyz")


def test_a_label_map_of_thresholds_is_told(maps: Path, labels: Path) -> None:
    given = probabilities("a", classes=2)
    write_npz(maps / "a.npz", given)
    decided = given[1] > np.quantile(given[1][given[1] > 0.5], 0.1)
    save(maps / "a.nii.gz", decided.astype(np.uint8))
    save(labels / "a.nii.gz", label("a", classes=2).astype(np.uint8))
    source = open_predictions(maps, labels=labels)
    source.read("a")
    assert "chosen by thresholds, postprocessed" in source.notes[0]
    save(maps / "a.nii.gz", (1000 * given[0]).astype(np.int16))  # an image
    source = open_predictions(maps, labels=labels)
    source.read("a")
    assert source.aligned
    assert not source.notes


def test_regions_are_turned_too(tmp_path: Path, maps: Path) -> None:
    labels = tmp_path / "labels"
    save(labels / "a.nii.gz", label("a", shape=CUBE).astype(np.uint8))
    turned = probabilities("a", shape=CUBE)[1:].transpose(0, 2, 1, 3)
    write_npz(maps / "a.npz", np.ascontiguousarray(turned))
    source = open_predictions(maps, labels=labels, axes="cxyz", regions="ONE=1 TWO=2")
    source.read("a")
    assert "X and Y swapped" in source.notes[0]


def test_another_grid(maps: Path, labels: Path) -> None:
    write_npz(maps / "a.npz", probabilities("a", shape=(9, 7, 6)))
    message = refused(maps, labels)
    assert "a.npz has the shape (3, 9, 7, 6), and its label (9, 7, 5)" in message
    assert "not on one grid" in message


@pytest.mark.parametrize("kind", ["nifti", "npz"])
def test_another_place(kind: str, maps: Path, labels: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += 0.5
    if kind == "nifti":
        save(maps / "a.nii.gz", probabilities("a").transpose(1, 2, 3, 0), moved)
    else:  # its label map tells
        write_npz(maps / "a.npz", probabilities("a"))
        save(maps / "a.nii.gz", label("a").astype(np.uint8), moved)
    message = refused(maps, labels)
    assert "a.nii.gz is not on the grid of its label" in message
    assert "0.5 mm apart" in message


def per_class(maps: Path, parts: np.ndarray, *scales: float, shift: float = 0.0) -> None:
    """Write a file a class, with the scale of each in its header; the last one is shifted."""
    for k, part in enumerate(parts):
        affine = AFFINE.copy()
        affine[0, 3] += shift * (k == len(parts) - 1)
        image = save(maps / f"a_{k}.nii.gz", part, affine)
        if scales:
            content = bytearray(gzip.decompress(image.read_bytes()))
            content[112:120] = np.array([scales[k], 0], np.float32).tobytes()
            image.write_bytes(gzip.compress(bytes(content)))


def test_a_class_in_another_place(maps: Path, labels: Path) -> None:
    per_class(maps, probabilities("a"), shift=0.5)
    message = refused(maps, labels)
    assert "a_2.nii.gz is not on the grid of " in message
    assert "0.5 mm apart" in message
    per_class(maps, probabilities("a"), shift=0.001)
    assert open_predictions(maps, labels=labels).cases == ("a",)


def test_classes_of_different_steps_have_the_largest(maps: Path, labels: Path) -> None:
    scales = np.array([1e-3, 4e-3, 1e-3], np.float32)
    steps = np.rint(probabilities("a") / scales[:, None, None, None]).astype(np.int16)
    per_class(maps, steps, *scales)
    source = open_predictions(maps, labels=labels)
    assert source.found["a"].stored.step == pytest.approx(4e-3)
    found = source.read("a")
    assert found.zero == pytest.approx(2e-3)
    assert found.probs.numpy() == pytest.approx(probabilities("a"), abs=0.006)
    per_class(maps, steps, 1e-3, 1.0, 1e-3)
    assert "numbers of type int16" in refused(maps, labels)


def test_turned_affine(maps: Path, labels: Path) -> None:
    flipped = AFFINE @ np.diag([-1, 1, 1, 1])
    save(maps / "a.nii.gz", probabilities("a").transpose(1, 2, 3, 0), flipped)
    assert "not on the grid" in refused(maps, labels)


def test_numbers_of_classes(maps: Path, labels: Path, tmp_path: Path) -> None:
    write_npz(maps / "a.npz", probabilities("a", classes=4))
    message = refused(maps, labels, class_names=["background", "organ", "tumor"])
    assert "a.npz has 4 channels, and there are 3 classes" in message
    results = write_nnunet(tmp_path / "two", {0: ["a"]}, classes=2)
    assert "has 2 channels, and there are 3 classes" in refused(results, labels)
    save(labels / "b.nii.gz", label("b").astype(np.uint8))
    write_npz(maps / "b.npz", probabilities("b"))
    assert "different numbers of classes, 3, 4" in refused(maps, labels)


def test_label_values_that_are_of_no_class(maps: Path, labels: Path) -> None:
    write_npz(maps / "a.npz", probabilities("a"))
    given = label("a").astype(np.int16)
    given[given == 2] = 4
    given[0, 0, 0] = -1
    save(labels / "a.nii.gz", given)
    message = refused(maps, labels)
    assert "the label has values -1, 4, which are of no channel: there are 0, 1, 2" in message
    assert "--label-values" in message
    save(labels / "a.nii.gz", label("a") + np.float32(0.5))
    assert "values 0.5, 1.5, 2.5" in refused(maps, labels)


def test_nothing_to_read(maps: Path, labels: Path, tmp_path: Path) -> None:
    assert "maps does not exist" in refused(maps, labels)
    maps.mkdir()
    assert "no .nii.gz or .nii in it" in refused(maps, labels)
    write_npz(maps / "a.npz", probabilities("a"))
    assert "none does not exist" in refused(maps, tmp_path / "none")
    assert "maps has no label files" in refused(maps, maps)
    with pytest.raises(PredictionError, match=r"labels of .*maps are needed: LABELS=FOLDER"):
        open_predictions(maps)
    assert "no .npz in it" in refused(labels, labels, format="npz")


def test_cases_without_a_partner(maps: Path, labels: Path) -> None:
    write_npz(maps / "b.npz", probabilities("b"))
    message = refused(maps, labels)
    assert "predictions b and labels a" in message
    write_npz(maps / "a.npz", probabilities("a"))
    save(labels / "c.nii.gz", label("c").astype(np.uint8))
    assert open_predictions(maps, labels=labels).notes == [
        "1 files are of no labeled case and left out: b.",
        "1 labels have no prediction: c.",
    ]


def test_files_of_one_case(maps: Path, labels: Path) -> None:
    whole = probabilities("a").transpose(1, 2, 3, 0)
    save(maps / "a.nii.gz", whole)
    save(maps / "a_prob.nii.gz", whole)
    assert "a has several maps: " in refused(maps, labels)
    shutil.rmtree(maps)
    save(maps / "x/a.nii.gz", whole)
    save(maps / "y/a.nii.gz", whole)
    assert "a has two predictions" in refused(maps, labels)
    shutil.rmtree(maps)
    for k in (0, 2):
        save(maps / f"a_{k}.nii.gz", probabilities("a")[k])
    assert "a lacks the file of class 1: there are a_0.nii.gz, a_2.nii.gz" in refused(maps, labels)
    save(maps / "a_1.nii.gz", probabilities("a")[1].astype(np.float64))
    assert "must be alike" in refused(maps, labels)


@pytest.mark.parametrize("name", ["a.npz", "a.nii.gz", "a_0.nii.gz"])
def test_a_truncated_file_is_named(name: str, maps: Path, labels: Path) -> None:
    if name.endswith("npz"):
        write_npz(maps / name, probabilities("a"))
    elif name == "a.nii.gz":
        save(maps / name, probabilities("a").transpose(1, 2, 3, 0))
    else:
        for k, part in enumerate(probabilities("a")):
            save(maps / f"a_{k}.nii.gz", part)
    whole = (maps / name).read_bytes()
    for size in (0, 200, len(whole) // 2):
        (maps / name).write_bytes(whole[:size])
        message = refused(maps, labels)
        assert f"{maps / name} cannot be read" in message
    (maps / name).write_bytes(whole)
    content = (labels / "a.nii.gz").read_bytes()
    (labels / "a.nii.gz").write_bytes(content[: len(content) // 2])
    assert f"{labels / 'a.nii.gz'} cannot be read" in refused(maps, labels)


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path(self.mark),))

    mark = ""


def test_no_pickle_is_opened(maps: Path, labels: Path, tmp_path: Path) -> None:
    Bomb.mark = str(tmp_path / "exploded")
    results = write_nnunet(tmp_path, {0: ["a"]})
    (results / "fold_0/validation/a.pkl").write_bytes(pickle.dumps(Bomb()))
    source = open_predictions(results, labels=labels)
    source.write(tmp_path / "out", "a", source.read("a").probs)
    objects = np.empty((3, *SHAPE), object)
    objects.fill(Bomb())
    write_npz(maps / "a.npz", objects)
    assert "a pickle), which are never opened" in refused(maps, labels)
    assert not (tmp_path / "exploded").exists()
    pickle.loads((results / "fold_0/validation/a.pkl").read_bytes())
    assert (tmp_path / "exploded").exists()  # the bomb works


def test_several_arrays(maps: Path, labels: Path) -> None:
    maps.mkdir()
    np.savez(maps / "a.npz", one=probabilities("a"), two=probabilities("a"))
    assert "has the arrays one, two" in refused(maps, labels)


def test_nnunet_without_probabilities_and_fold_all(labels: Path, tmp_path: Path) -> None:
    results = write_nnunet(tmp_path, {0: ["a"]})
    validation = results / "fold_0/validation"
    (results / "fold_0").rename(results / "fold_all")
    assert "the network was trained on" in refused(results, labels)
    (results / "fold_all").rename(results / "fold_0")
    (validation / "a.npz").unlink()
    assert "--val --npz" in refused(results, labels)


def test_a_case_in_two_folds(labels: Path, tmp_path: Path) -> None:
    results = write_nnunet(tmp_path, {0: ["a"], 1: ["a"]})
    assert "a is predicted twice, by fold 0 and fold 1" in refused(results, labels)


def test_settings_that_are_wrong(maps: Path, labels: Path, tmp_path: Path) -> None:
    write_npz(maps / "a.npz", probabilities("a"))
    assert "PATIENT '(' is no regular expression" in refused(maps, labels, patient="(")
    assert "but not a" in refused(maps, labels, patient="^p")
    assert "got 'WT'" in refused(maps, labels, regions="WT")
    assert "Label values must differ" in refused(maps, labels, label_values=[0, 1, 1])
    results = write_nnunet(tmp_path, {0: ["a"]}, labels={"background": 0, "whole": [1, 2]})
    assert "regions_class_order of dataset.json must have 1" in refused(results, labels)
    (results / "dataset.json").write_text("{")
    assert "dataset.json cannot be read" in refused(results, labels)


def test_the_output_is_not_the_input(maps: Path, labels: Path) -> None:
    write_npz(maps / "a.npz", probabilities("a"))
    source = open_predictions(maps, labels=labels)
    for place, what in ((maps, "predictions"), (labels, "labels")):
        for folder in (place, place / "within", place / ".." / place.name, place.parent):
            before = {path: path.read_bytes() for path in labels.parent.rglob("*.*")}
            with pytest.raises(PredictionError, match=f"has the ({what}|predictions) that were re"):
                source.write(folder, "a", source.read("a").probs)
            assert {path: path.read_bytes() for path in labels.parent.rglob("*.*")} == before
    with pytest.raises(PredictionError, match="no labeled case 'b'"):
        source.read("b")
