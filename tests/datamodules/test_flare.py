"""Finding FLARE's cases in every layout, its faults, its tubes, and its orientations."""

import functools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from datamodules import DataError, FLAREDataModule
from datamodules.case import Survey
from datamodules.layouts.flare_folders import survey_flare
from datamodules.layouts.flare_releases import RELEASES
from datamodules.layouts.flare_tubes import ignore_beyond
from datamodules.phantom import PhantomSettings, flare, write_flare_phantom
from datamodules.reading.checks import IGNORED
from tests.datamodules.conftest import save
from tests.datamodules.fault_messages import assert_told
from tests.faults import FAULTS, inject, phantom_cases
from tests.grouped import grouped

LAYOUTS = {  # release, images and labels of three cases
    "as released": (
        "flare21",
        "FLARE21/TrainingImg/train_{:03d}_0000.nii.gz",
        "FLARE21/TrainingMask/train_{:03d}.nii.gz",
    ),
    "nnU-Net's": ("flare21", "imagesTr/train_{:03d}.nii.gz", "labelsTr/train_{:03d}.nii.gz"),
    "unpacked": (
        "flare21",
        "a/b/TrainingImg/train_{:03d}_0000.nii",
        "a/b/TrainingMask/train_{:03d}.nii",
    ),
    "FLARE22": (
        "flare22",
        "FLARE22_LabeledCase50/images/FLARE22_Tr_{:04d}_0000.nii.gz",
        "FLARE22_LabeledCase50/labels/FLARE22_Tr_{:04d}.nii.gz",
    ),
    "FLARE22, a mirror": (
        "flare22",
        "FLARE22Train/imagesTr/FLARE22_Tr_{:04d}_0000.nii.gz",
        "FLARE22Train/labelsTr/FLARE22_Tr_{:04d}.nii.gz",
    ),
    "AbdomenCT-1K": (
        "abdomenct1k",
        "AbdomenCT-1K/imagesTr/Case_{:05d}_0000.nii.gz",
        "AbdomenCT-1K/labels/Case_{:05d}.nii.gz",
    ),
    "AbdomenCT-1K in parts": (
        "abdomenct1k",
        "AbdomenCT-1K-ImagePart1/Case_{:05d}_0000.nii.gz",
        "Mask/Case_{:05d}.nii.gz",
    ),
    "names of one's own": ("flare22", "images/anna {:d}_0000.nii.gz", "labels/anna {:d}.nii.gz"),
}
IMAGE, LABEL = LAYOUTS["as released"][1:]


def touch(root: Path, *names: str) -> Path:
    """Empty files are enough where only names count."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def three(root: Path, layout: str = "as released") -> Path:
    _, image, label = LAYOUTS[layout]
    return touch(root, *(name.format(n) for n in (1, 2, 3) for name in (image, label)))


def survey(root: Path, release: str = "flare21") -> Survey:
    return survey_flare(root, RELEASES[release])  # type: ignore[index]


def problem(root: Path, release: str = "flare21") -> str:
    (only,) = survey(root, release).problems
    return str(only)


def refusal(root: Path, release: str = "flare21") -> str:
    with pytest.raises(DataError) as error:
        survey(root, release)
    return str(error.value)


@pytest.mark.parametrize(("release", "classes"), [("flare21", 5), ("flare22", 14)])
def test_the_release_decides_the_classes_without_disk(release: Any, classes: int) -> None:
    module = FLAREDataModule(Path("/nowhere"), release=release)
    assert module.num_classes == len(module.class_names) == len(module.class_keys) == classes
    assert module.label_map == {value: value for value in range(classes)}
    assert module.class_names[:2] == ("background", "liver")
    assert (module.in_channels, module.spatial_dims, module.unions) == (1, 2, {})


def test_labels_are_the_releases_own() -> None:
    names = ("background", *RELEASES["flare22"].organs)
    assert [names[k] for k in (2, 5, 6, 7, 10, 13)] == [
        *("right kidney", "aorta", "inferior vena cava", "right adrenal", "oesophagus"),
        "left kidney",
    ]
    assert RELEASES["abdomenct1k"].organs == ("liver", "kidneys", "spleen", "pancreas")


def test_no_such_release() -> None:
    with pytest.raises(ValueError, match=r"release must be flare21 or .*, got 'flare23'\."):
        FLAREDataModule(release="flare23")  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, tmp_path: Path) -> None:
    release, image, label = LAYOUTS[layout]
    found = survey(three(tmp_path, layout), release)
    assert found.problems == ()
    assert found.notes == ()
    assert found.official_test == frozenset()
    assert [case.images for case in found.cases] == [
        (tmp_path / image.format(n),) for n in (1, 2, 3)
    ]
    assert [case.label for case in found.cases] == [tmp_path / label.format(n) for n in (1, 2, 3)]
    assert [case.id for case in found.cases] == [
        (tmp_path / label.format(n)).name.split(".")[0] for n in (1, 2, 3)
    ]
    assert found.patients == {case.id for case in found.cases}


def test_levels(tmp_path: Path) -> None:
    three(tmp_path / "data")
    for root in (tmp_path, tmp_path / "data", tmp_path / "data" / "FLARE21"):
        assert len(survey(root).cases) == 3


@pytest.mark.parametrize("folder", ["TrainingImg", "TrainingMask"])
def test_one_level_too_deep(folder: str, tmp_path: Path) -> None:
    inner = three(tmp_path) / "FLARE21" / folder
    if folder == "TrainingImg":
        text = refusal(inner)
        assert "found 3 images without labels" in text
        assert f"one level too deep; give {inner.parent} " in text
    else:
        assert "a label must have an image" in str(survey(inner).problems[0])


def test_missing_and_empty(tmp_path: Path) -> None:
    assert "found no such folder" in refusal(tmp_path / "nowhere")
    text = refusal(tmp_path, "flare22")
    assert "labeled cases of FLARE22: images/FLARE22_Tr_0001_0000.nii.gz with labels/" in text
    assert "found an empty folder" in text
    assert "found a file" in refusal(touch(tmp_path, "file") / "file")
    touch(tmp_path, IMAGE.format(1))
    text = refusal(tmp_path)
    assert (
        "found 1 images without labels, such as FLARE21/TrainingImg/train_001_0000.nii.gz" in text
    )


def test_both_suffixes_and_debris(tmp_path: Path) -> None:
    three(tmp_path)
    touch(tmp_path, IMAGE.format(1).removesuffix(".gz"), "FLARE21/TrainingImg/readme.txt")
    touch(tmp_path, "__MACOSX/FLARE21/TrainingImg/train_001_0000.nii.gz")
    touch(tmp_path, "FLARE21/TrainingImg/._train_009_0000.nii.gz", ".old/labels/train_001.nii.gz")
    found = survey(tmp_path)
    assert found.problems == ()
    assert [case.images[0].name for case in found.cases] == [
        f"train_00{n}_0000.nii.gz" for n in (1, 2, 3)
    ]


def test_unlabeled_cases_are_left_out_and_named(tmp_path: Path) -> None:
    three(tmp_path)
    touch(tmp_path, "FLARE21/ValidationImg/validation_001_0000.nii.gz")
    found = survey(tmp_path)
    assert (len(found.cases), found.problems) == (3, ())
    assert found.notes[0].startswith("1 images without labels are left out, such as ")
    three(tmp_path / "22", "FLARE22")
    touch(tmp_path / "22", *(f"Unlabeled1-1000/Case_{n:05d}_0000.nii.gz" for n in range(1, 6)))
    touch(tmp_path / "22", "FLARE22_LabeledCase50/images/Case_00009_0000.nii.gz")
    found = survey(tmp_path / "22", "flare22")
    assert (len(found.cases), found.problems) == (3, ())
    assert found.notes[0].startswith("6 images without labels are left out")
    three(tmp_path / "1k", "AbdomenCT-1K in parts")
    touch(tmp_path / "1k", "AbdomenCT-1K-ImagePart3/Case_01050_0000.nii.gz")
    found = survey(tmp_path / "1k", "abdomenct1k")
    assert (len(found.cases), len(found.notes), found.problems) == (3, 1, ())


def test_a_labelled_validation_set_is_the_test_set(tmp_path: Path) -> None:
    three(tmp_path, "FLARE22")
    touch(tmp_path, "Tuning/images/FLARETs_0001_0000.nii.gz", "Tuning/labels/FLARETs_0001.nii.gz")
    touch(tmp_path, "Tuning/images/FLARETs_0002_0000.nii.gz")
    found = survey(tmp_path, "flare22")
    assert found.official_test == {"FLARETs_0001"}
    assert found.problems == ()
    assert "1 images without labels" in found.notes[0]


@pytest.mark.parametrize(
    ("layout", "given", "right"),
    [
        ("as released", "flare22", "flare21"),
        ("as released", "abdomenct1k", "flare21"),
        ("FLARE22", "flare21", "flare22"),
        ("AbdomenCT-1K", "flare22", "abdomenct1k"),
    ],
)
def test_another_release(layout: str, given: str, right: str, tmp_path: Path) -> None:
    text = refusal(three(tmp_path, layout), given)
    assert f"labeled cases of {RELEASES[given].title}: " in text  # type: ignore[index]
    assert f", which is of {RELEASES[right].title} (" in text  # type: ignore[index]
    assert f"Give --data.init_args.release {right} (make: in ARGS), or another folder" in text


def test_two_releases_in_one_folder(tmp_path: Path) -> None:
    three(three(tmp_path, "FLARE22"))
    for release, other in (("flare21", "FLARE22_Tr"), ("flare22", "train")):
        found = survey(tmp_path, release)
        assert (len(found.cases), found.problems) == (3, ())
        assert "3 cases that are not of FLARE2" in found.notes[0]
        assert other in found.notes[0]


def test_image_without_label(tmp_path: Path) -> None:
    (three(tmp_path) / LABEL.format(2)).unlink()
    text = problem(tmp_path)
    assert text.startswith("train_002: a training image must have a label, as TrainingImg/")
    assert f"found no train_002.nii.gz in a folder of labels ({tmp_path / IMAGE.format(2)})" in text
    assert "Restore the label" in text
    assert "train_002" in survey(tmp_path).patients


def test_label_without_image(tmp_path: Path) -> None:
    (three(tmp_path) / IMAGE.format(2)).unlink()
    text = problem(tmp_path)
    assert text.startswith("train_002: a label must have an image")
    assert f"({tmp_path / LABEL.format(2)}). Restore the image" in text


@pytest.mark.parametrize(
    "name", ["FLARE21/copy/TrainingImg/train_002.nii.gz", "FLARE21/TrainingImg/train_002.nii.gz"]
)
def test_a_case_twice(name: str, tmp_path: Path) -> None:
    text = problem(touch(three(tmp_path), name))
    assert text.startswith("train_002: a case must be there once, found FLARE21/")
    assert IMAGE.format(2) in text
    assert name in text


def test_a_phantom_below_the_root_is_not_real_data(tmp_path: Path) -> None:
    touch(three(tmp_path / "mine"), "phantom.json")
    (refused,) = FLAREDataModule(tmp_path).check(progress=False)
    assert refused.rule.startswith("a phantom must be given by its own folder")
    assert refused.fix.startswith(f"Give {tmp_path / 'mine'} (DATA_ROOT)")
    case = survey(tmp_path / "mine").cases[0]
    assert case.posterior == tmp_path / "mine/posterior/train_001/train_001.npz"
    assert survey(tmp_path / "mine/FLARE21").cases[0].posterior == case.posterior


# Tubes ------------------------------------------------------------------------------------------


def tube_label(turn: Callable[[np.ndarray], np.ndarray] = lambda a: a) -> np.ndarray:
    """An aorta of one voxel, labeled on slices 2 to 4 of 9, and a liver next to it on all."""
    label = np.zeros((21, 21, 9), np.uint8)
    label[10, 10, 2:5] = 5
    label[12:14, 10] = 1
    return turn(label)


def disc(reach: float) -> np.ndarray:
    """Pixels of 5 mm within ``reach`` mm of pixel (10, 10)."""
    x, y = 5.0 * (np.indices((21, 21)) - 10)
    return np.hypot(x, y) <= reach


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_possible_tubes_are_ignored_beyond_their_slices(axis: int) -> None:
    def turn(volume: np.ndarray) -> np.ndarray:
        return np.moveaxis(volume, 2, axis)

    columns = [c for c in range(3) if c != axis]
    affine = np.eye(4)
    affine[:3, :3] = 0
    affine[0, columns[0]], affine[1, columns[1]], affine[2, axis] = -5, -5, 10
    label = tube_label(turn)
    found = np.moveaxis(ignore_beyond(label, affine), axis, 2)
    np.testing.assert_array_equal(label, tube_label(turn))  # the argument is as it was
    for z in range(9):
        expected = tube_label()[:, :, z]
        if z not in (2, 3, 4):
            distance = 10 * (2 - z if z < 2 else z - 4)
            expected[(expected == 0) & disc(min(10 + distance, 30))] = IGNORED
        np.testing.assert_array_equal(found[:, :, z], expected, err_msg=f"slice {z}")


def test_whole_and_absent_tubes_ignore_nothing() -> None:
    label = tube_label()
    label[10, 10] = 6
    np.testing.assert_array_equal(ignore_beyond(label, np.eye(4)), label)
    label[10, 10] = 3
    np.testing.assert_array_equal(ignore_beyond(label, np.eye(4)), label)


# From files to batches ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Coarse phantoms of FLARE21 and FLARE22; not to change."""
    home = tmp_path_factory.mktemp("phantoms")
    counts = {"train": 2, "val": 1, "test": 1}
    for release, orientations in (("2021", ("LPS",)), ("2022", ("LPS", "RAS", "IPL"))):
        root, quirks = home / f"flare{release[2:]}", {"part of tubes": 0.5}
        settings = PhantomSettings(release=release, coarsen=2.5, quirks=quirks)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(flare, "ORIENTATIONS", orientations)
            write_flare_phantom(root, patients=counts, settings=settings, workers=1, progress=False)
    return {path.name: path for path in home.iterdir()}


def module(root: Path, release: Any, **settings: Any) -> FLAREDataModule:
    defaults: dict[str, Any] = {
        "cache_dir": root.parent / "cache",
        "patch_size": (32, 32),
        "normalize": "window",
        "window": (-160.0, 240.0),
        "prepare_workers": 1,
    }
    return FLAREDataModule(root, release=release, **grouped(**defaults | settings))


@pytest.mark.parametrize(
    "name", [name for name, fault in FAULTS.items() if "flare" in fault.datasets]
)
def test_faults_are_borne_or_named(name: str, phantoms: dict[str, Path], tmp_path: Path) -> None:
    root = Path(shutil.copytree(phantoms["flare22"], tmp_path / "flare22"))
    case_id, case = next(iter(phantom_cases(root).items()))
    inject(name, case)
    built = module(root, "flare22")
    problems = built.check(progress=False)
    if FAULTS[name].harmless:
        assert problems == []
        assert len(built.discover(root).cases) == 4
    else:
        assert {fault.case for fault in problems} == {case_id}
        files = {*case.images, case.label, case.posterior}
        copy = {p for p in root.rglob(f"{case_id}*.nii.gz") if "copy" in p.parts}
        assert {Path(fault.path) for fault in problems} <= files | copy
        assert_told(name, "flare", problems)


def test_accepted_faults_are_noted(phantoms: dict[str, Path], tmp_path: Path) -> None:
    root = Path(shutil.copytree(phantoms["flare21"], tmp_path / "flare21"))
    (first, one), (second, two) = list(phantom_cases(root).items())[:2]
    inject("noisy-labels", one)
    inject("negative-spacing", two)
    facts = {fact.id: fact.notes for fact in module(root, "flare21").examine(pictures=0).facts}
    (note,) = facts.pop(first)
    assert re.search(r"train_000.nii.gz: labels are up to \de-07 off integers: rounded", note)
    (note,) = facts.pop(second)
    assert f"{two.images[0]} and 1 more files of the case: pixdim is negative" in note
    assert set(facts.values()) == {()}


def test_labels_of_another_scheme_are_refused(phantoms: dict[str, Path], tmp_path: Path) -> None:
    """Thirteen organs under names without a meaning."""
    for kind, ending in (("images", "_0000"), ("labels", "")):
        folder = tmp_path / "mine" / kind
        folder.mkdir(parents=True)
        for path in (phantoms["flare22"] / "FLARE22_LabeledCase50" / kind).iterdir():
            number = path.name.removeprefix("FLARE22_Tr_")[:4]
            shutil.copy(path, folder / f"scan{number}{ending}.nii.gz")
    problems = module(tmp_path / "mine", "flare21").check(progress=False)
    texts = [str(fault) for fault in problems if fault.case]
    assert len(texts) == 4
    assert all("labels must be among 0, 1, 2, 3, 4, found 5 (" in text for text in texts)


def test_header_orientation_does_not_matter(phantoms: dict[str, Path], tmp_path: Path) -> None:
    """A case stored with other axes gives the same voxels, and its logits come back to its grid."""
    root = Path(shutil.copytree(phantoms["flare21"], tmp_path / "plain"))
    turned = Path(shutil.copytree(root, tmp_path / "turned"))
    (case_id,) = json.loads((root / "split.json").read_text())["test"]
    for path in turned.rglob(f"{case_id}*.nii.gz"):
        image = nib.load(path)
        start, end = (nib.io_orientation(image.affine), nib.orientations.axcodes2ornt("IPR"))
        nib.save(image.as_reoriented(nib.orientations.ornt_transform(start, end)), path)
    for posterior in (*root.glob("posterior/*/*"), *turned.glob("posterior/*/*")):
        posterior.unlink()
    for folder in (root, turned):
        (folder / "phantom.json").unlink()  # posteriors are in the file's axes: without them
    batches, modules = [], []
    for folder in (root, turned):
        built = module(folder, "flare21", split=folder / "split.json", spatial_dims=3,
                       patch_size=(16, 16, 16), spacing=(9.0, 9.0, 10.0))  # fmt: skip
        built.prepare(progress=False)
        built.setup("test")
        (batch,) = built.test_dataloader()
        batches.append(batch)
        modules.append(built)
    assert torch.equal(batches[0]["image"], batches[1]["image"])
    assert torch.equal(batches[0]["label"], batches[1]["label"])
    assert batches[0]["image"].min() == 0
    assert batches[0]["image"].max() == 1
    logits = torch.randn(5, *batches[0]["label"].shape[1:])
    plain, _ = modules[0].restore(case_id, logits)
    other, affine = modules[1].restore(case_id, logits)
    (path,) = turned.rglob(f"{case_id}_0000.nii.gz")
    assert other.shape[1:] == nib.load(path).shape != plain.shape[1:]
    np.testing.assert_array_equal(affine, nib.load(path).affine)
    assert nib.aff2axcodes(affine) == ("I", "P", "R")
    # I P R of the file are S reversed, P, and L reversed
    torch.testing.assert_close(other.permute(0, 3, 2, 1).flip(1, 3), plain)


def test_tubes_in_batches(phantoms: dict[str, Path]) -> None:
    """Ignored voxels in batches and on the native grid, in FLARE22 alone."""
    built = module(phantoms["flare22"], "flare22")
    built.prepare(progress=False)
    built.setup("fit")
    labels = {case.id: case.label for case in built.discover(phantoms["flare22"]).cases}
    shares = []
    for batch in (*built.val_dataloader(), *built.test_dataloader()):
        (case,) = batch["case"]
        image = nib.load(labels[case])
        ignored = ignore_beyond(np.asanyarray(image.dataobj), image.affine) == IGNORED
        np.testing.assert_array_equal(built.truth(case)["label"][0] == -100, ignored)
        assert int((batch["label"] == -100).sum()) == ignored.sum()
        shares.append(ignored.mean())
    assert 0 < max(shares) < 0.1
    plain = module(phantoms["flare21"], "flare21")
    plain.prepare(progress=False)
    plain.setup("fit")
    assert not any((batch["label"] == -100).any() for batch in plain.test_dataloader())


def test_inputs_lose_their_channel_number(tmp_path: Path) -> None:
    data = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    for name in ("a_0000", "b"):
        save(tmp_path / f"{name}.nii.gz", data)
    built = module(tmp_path, "flare21", predict_input=tmp_path)
    assert built.cases("predict") == ["a", "b"]
    save(tmp_path / "a.nii.gz", data)
    with pytest.raises(DataError, match=r"a: each input .* found a\.nii\.gz and a_0000\.nii\.gz"):
        built.cases("predict")


def test_the_phantom_replaces_missing_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse = functools.partial(PhantomSettings, coarsen=2.5)
    monkeypatch.setattr("datamodules.phantom.PhantomSettings", coarse)
    assert FLAREDataModule(release="flare22").data_root == Path("data/flare22-phantom")
    assert FLAREDataModule(phantom_full_size=True).data_root == Path("data/flare21-phantom-full")
    folder = tmp_path / "p"
    built = FLAREDataModule(
        release="abdomenct1k", phantom_root=folder, prepare_workers=1, cache_dir=tmp_path / "c",
        phantom_patients={"train": 1, "val": 1, "test": 1},
    )  # fmt: skip
    assert built.check(progress=False) == []
    assert built.origin == "phantom"
    assert built.cases("test") == ["Case_00003"]
    text = " ".join(capsys.readouterr().err.split())
    assert "It has AbdomenCT-1K's layout, it is not AbdomenCT-1K." in text
    other = FLAREDataModule(release="flare22", phantom_root=folder)
    (only,) = other.check(progress=False)
    assert "a phantom with other patients, settings" in only.found
    assert "--data.init_args.phantom_root" in only.fix


def test_pictures_show_the_window(phantoms: dict[str, Path]) -> None:
    built = module(phantoms["flare21"], "flare21")
    facts = built.examine(pictures=1, progress=False).facts
    (fact,) = (fact for fact in facts if fact.picture is not None)
    (case,) = (case for case in built.discover(built.data_root).cases if case.id == fact.id)
    assert fact.picture is not None
    values = np.asanyarray(nib.load(case.images[0]).dataobj)  # LPS already
    z = int(np.count_nonzero(nib.load(case.label).get_fdata(), axis=(0, 1)).argmax())
    expected = (255 * ((values[:, :, z] + 160) / 400).clip(0, 1)).astype(np.uint8)
    assert np.abs(fact.picture.image[0].astype(int) - expected).max() <= 1
