"""Datasets that describe themselves: nothing but a folder is given."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import (
    DataError,
    DecathlonDataModule,
    Division,
    ImagesDataModule,
    NNUNetDataModule,
    Preprocessing,
    Sampling,
    TableDataModule,
)
from datamodules.files import FilesDataModule
from datamodules.layouts.labels import read_labels
from tests.datamodules.tiny_files import (
    save,
    volume,
    write_decathlon,
    write_images,
    write_json,
    write_nnunet,
    write_table,
)

DIVISION = Division(val_fraction=0.25, test_fraction=0.25)
LAYOUTS: dict[str, tuple[type[FilesDataModule], Callable[[Path], Path]]] = {
    "nnunet": (NNUNetDataModule, write_nnunet),
    "decathlon": (DecathlonDataModule, write_decathlon),
    "images": (ImagesDataModule, write_images),
    "table": (TableDataModule, write_table),
}


def made(kind: str, root: Path, cache: Path, **settings: Any) -> FilesDataModule:
    return LAYOUTS[kind][0](
        root, cache_dir=cache, **({"division": DIVISION, "batch_size": 2} | settings)
    )


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_each_layout_gives_batches(kind: str, dims: int, tmp_path: Path) -> None:
    root = LAYOUTS[kind][1](tmp_path / "data")
    data = made(kind, root, tmp_path / "cache", spatial_dims=dims)
    assert data.check(progress=False) == []
    data.prepare(progress=False)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert tuple(batch["image"].shape[2:]) == data.patch_size
    assert set(batch["label"].unique().tolist()) <= {-100, *range(data.num_classes)}
    whole = next(iter(data.test_dataloader()))
    logits = torch.zeros(data.num_classes, *whole["label"].shape[1:])
    native, affine = data.restore(whole["case"][0], logits)
    assert native.shape[1:] == data.truth(whole["case"][0])["label"].shape[1:]
    assert affine.shape == (4, 4)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_planned_arguments_give_the_same_data_without_the_folder(kind: str, tmp_path: Path) -> None:
    root = LAYOUTS[kind][1](tmp_path / "data")
    data = made(kind, root, tmp_path / "cache")
    planned = json.loads(json.dumps(data.planned))
    groups = {"division": Division, "preprocessing": Preprocessing, "sampling": Sampling}
    for name, group in groups.items():
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in planned[name].items()}
        planned[name] = group(**fields)
    again = LAYOUTS[kind][0](tmp_path / "gone", cache_dir=tmp_path / "cache", **planned)
    assert again.planned == data.planned
    assert (again.num_classes, again.in_channels) == (data.num_classes, data.in_channels)


def test_classes_channels_and_spacing_are_those_of_the_files(tmp_path: Path) -> None:
    root = write_nnunet(tmp_path / "Dataset001_Test", channels=("T1", "T2"))
    data = made("nnunet", root, tmp_path / "cache")
    assert data.dataset == "Dataset001_Test"
    assert data.class_names == ("background", "shell", "core")
    assert data.modalities == ("T1", "T2")
    assert data.preprocessing.spacing == (1.5, 1.5)
    assert data.preprocessing.normalize == "zscore"
    assert data.patch_size == (20, 24)


def test_settings_override_the_plan(tmp_path: Path) -> None:
    root = write_nnunet(tmp_path / "data")
    data = made(
        "nnunet",
        root,
        tmp_path / "cache",
        name="mine",
        labels={"background": 0, "any": [1, 2]},
        preprocessing=Preprocessing(spacing=None, normalize="percentile"),
        sampling=Sampling(patch_size=(16, 16), crop="random"),
    )
    assert (data.dataset, data.patch_size) == ("mine", (16, 16))
    assert data.preprocessing.spacing is None
    assert data.class_names == ("background", "label 1", "label 2")
    assert dict(data.unions) == {"any": (1, 2)}


def test_ct_gets_a_window_of_its_foreground_and_other_channels_z_scores(tmp_path: Path) -> None:
    root = write_nnunet(tmp_path / "data", channels=("CT", "PET"))
    data = made("nnunet", root, tmp_path / "cache")
    assert data.preprocessing.normalize == ("window", "zscore")
    window, none = data.preprocessing.window  # type: ignore[misc]
    assert none is None
    inside = np.concatenate([image[label > 0] for image, label in map(volume, range(10))])
    np.testing.assert_allclose(window, np.percentile(inside, (0.5, 99.5)), atol=3)
    data.prepare(progress=False)
    image = next(iter(data.test_dataloader()))["image"]
    assert image[:, 0].min() >= 0
    assert image[:, 0].max() <= 1
    assert abs(float(image[:, 1].mean())) < 0.1


def test_regions_are_classes_and_unions_and_ignored_voxels_are_ignored(tmp_path: Path) -> None:
    root = write_nnunet(tmp_path / "data")
    content = json.loads((root / "dataset.json").read_text())
    content["labels"] = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    content["regions_class_order"] = [1, 2]
    write_json(root, content)
    label = volume(0)[1]
    label[:2] = 3
    save(root / "labelsTr" / "case_000.nii.gz", label)
    data = made("nnunet", root, tmp_path / "cache")
    assert data.class_names == ("background", "label 1", "core")
    assert dict(data.unions) == {"whole": (1, 2)}
    assert data.check(progress=False) == []
    truth = data.truth("case_000")["label"][0]
    assert (truth[:2] == -100).all()
    assert set(truth[2:].unique().tolist()) <= {0, 1, 2}


def test_labels_of_the_test_folder_are_the_test_set(tmp_path: Path) -> None:
    root = write_nnunet(tmp_path / "data", cases=8, test=2)
    data = made("nnunet", root, tmp_path / "cache")
    assert data.cases("test") == ["case_008", "case_009"]


def test_folds_of_nnunet_are_used(tmp_path: Path) -> None:
    root = write_nnunet(tmp_path / "data", cases=10)
    names = [f"case_{k:03d}" for k in range(10)]
    folds = [{"train": names[:k] + names[k + 2 :], "val": names[k : k + 2]} for k in (0, 2, 4)]
    (root / "splits_final.json").write_text(json.dumps(folds))
    data = made("nnunet", root, tmp_path / "cache", division=Division(fold=1))
    assert data.cases("test") == ["case_002", "case_003"]  # what nnU-Net reports on
    assert data.cases("val")
    assert sorted(data.cases("train") + data.cases("val") + data.cases("test")) == names
    assert data.planned["division"]["split"] == root / "splits_final.json"


def test_folds_of_nnunet_validate_next_to_a_test_set(tmp_path: Path) -> None:
    root = write_nnunet(tmp_path / "data", cases=8, test=2)
    names = [f"case_{k:03d}" for k in range(8)]
    (root / "splits_final.json").write_text(json.dumps([{"train": names[2:], "val": names[:2]}]))
    data = made("nnunet", root, tmp_path / "cache", division=Division())
    assert data.cases("val") == names[:2]
    assert data.cases("train") == names[2:]
    assert data.cases("test") == ["case_008", "case_009"]


def test_patients_are_found_in_the_names(tmp_path: Path) -> None:
    root = write_images(tmp_path / "data")
    data = made("images", root, tmp_path / "cache", patient=r"^(p\d)_")
    parts = [set(data.patients(part)) for part in ("train", "val", "test")]
    assert set.union(*parts) == {f"p{k}" for k in range(5)}
    assert sum(map(len, parts)) == 5
    with pytest.raises(DataError) as error:
        made("images", root, tmp_path / "cache", patient=r"^(x\d)_")
    (problem,) = error.value.problems
    assert problem.found.startswith("no match in 10 of 10 names: p0_0, ")
    assert "PATIENT" in problem.fix
    with pytest.raises(ValueError, match="regular expression"):
        made("images", root, tmp_path / "cache", patient="(")


def test_channels_on_the_fourth_axis(tmp_path: Path) -> None:
    root = write_decathlon(tmp_path / "data", modalities=("T1", "T2", "FLAIR"))
    data = made("decathlon", root, tmp_path / "cache")
    assert data.in_channels == 3
    data.prepare(progress=False)
    raw, problems = data.preparer.read(data._case("case_000"))
    assert problems == []
    assert raw is not None
    np.testing.assert_array_equal(raw.image[2], volume(0)[0] + 10)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_color_images_and_masks_of_colors(tmp_path: Path, suffix: str) -> None:
    root = write_images(tmp_path / "data", color=True, suffix=suffix)
    data = made("images", root, tmp_path / "cache")
    assert data.channels == ("red", "green", "blue")
    assert data.preprocessing.normalize == "rgb"
    assert data.planned["labels"] == {
        "background": "#000000",
        "class 1": "#0000ff",
        "class 2": "#ff0000",
    }
    named = {"background": "#000000", "shell": "#ff0000", "core": "#0000ff"}
    data = made("images", root, tmp_path / "cache", labels=named)
    assert data.check(progress=False) == []
    truth = data.truth("p0_0")["label"][0, :, :, 0]
    np.testing.assert_array_equal(truth.numpy(), volume(0, (40, 32))[1].T)


def test_a_table_names_patients_readers_and_the_test_set(tmp_path: Path) -> None:
    root = write_table(tmp_path / "data", readers=3)
    table = (root / "cases.csv").read_text().splitlines()
    lines = [f"{line},{['test', 0, 1][(k > 0) + (k > 8)]}" for k, line in enumerate(table)]
    (root / "cases.csv").write_text("\n".join(lines))
    data = made("table", root / "cases.csv", tmp_path / "cache")
    assert data.cases("test") == ["c8", "c9"]
    assert set(data.patients("train")) <= {f"p{k}" for k in range(4)}
    assert len(data._case("c0").label_files) == 3


def test_the_plan_is_kept_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_nnunet(tmp_path / "data")
    made("nnunet", root, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr("datamodules.plan._header", lambda *args: pytest.fail("read again"))
        made("nnunet", root, tmp_path / "cache")
    save(root / "imagesTr" / "case_000_0000.nii.gz", volume(1)[0], np.diag([2.0, 2, 3, 1]))
    read = []
    monkeypatch.setattr(
        "datamodules.plan._header",
        lambda case, codes: read.append(case) or ((20, 24, 6), np.eye(4)),  # type: ignore[func-returns-value]
    )
    assert made("nnunet", root, tmp_path / "cache").preprocessing.spacing == (1, 1)
    assert len(read) == 10


def test_channels_of_an_array_are_colors_in_8_bits_only(tmp_path: Path) -> None:
    root = write_images(tmp_path / "data", color=True, suffix=".npy")
    for path in (root / "images").iterdir():
        np.save(path, np.load(path) / np.float32(255))
    data = made("images", root, tmp_path / "cache")
    assert data.channels == ("channel 0", "channel 1", "channel 2")
    assert data.preprocessing.normalize == "zscore"


def test_white_among_colors_is_one_class_in_all_masks(tmp_path: Path) -> None:
    root = write_images(tmp_path / "data", color=True)
    for number, path in enumerate(sorted((root / "masks").iterdir())):
        pixels = np.array(Image.open(path))
        pixels[pixels[..., 2] > 0] = 255
        if number == 3:  # black and white alone
            pixels[pixels[..., 1] == 0] = 0
        Image.fromarray(pixels).save(path)
    data = made("images", root, tmp_path / "cache")
    labels = {"background": "#000000", "class 1": "#ff0000", "class 2": "#ffffff"}
    assert data.planned["labels"] == labels
    assert data.check(progress=False) == []


def test_pictures_of_the_contact_sheet_are_upright(tmp_path: Path) -> None:
    root = write_images(tmp_path / "data")
    for folder in ("images", "masks"):
        pixels = np.zeros((40, 32), np.uint8)
        pixels[:5, :9] = 255
        name = "p0_0.png" if folder == "images" else "p0_0_mask.png"
        Image.fromarray(pixels).save(root / folder / name)
    facts = made("images", root, tmp_path / "cache").examine(pictures=10, progress=False).facts
    seen = next(case.picture for case in facts if case.id == "p0_0")
    assert seen is not None
    np.testing.assert_array_equal(seen.label.T[:5, :9], 1)
    np.testing.assert_array_equal(seen.image[0].T > 0, pixels > 0)


def test_an_external_test_set_has_no_holdout(tmp_path: Path) -> None:
    root = write_nnunet(tmp_path / "data", cases=4)
    division = Division(external=True, adapt="holdout")
    data = made("nnunet", root, tmp_path / "cache", division=division)
    data.prepare(progress=False)
    assert len(data.cases("test")) == 4


def test_another_pixel_size_gives_another_plan_and_cache(tmp_path: Path) -> None:
    root = write_images(tmp_path / "data")
    for size in ((1.0, 1.0), (0.5, 0.25)):
        data = made("images", root, tmp_path / "cache", pixel_size=size)
        assert data.preprocessing.spacing == size
    for size in ((1.0, 1.0), (0.5, 0.25)):
        settings = Preprocessing(orientation=None, normalize="zscore")
        data = made("images", root, tmp_path / "cache", pixel_size=size, preprocessing=settings)
        data.prepare(progress=False)
        data.setup("test")
        batch = next(iter(data.test_dataloader()))
        assert batch["spacing"][0, :2].tolist() == list(size)


def test_smoothing_that_was_asked_for_is_kept(tmp_path: Path) -> None:
    root = write_nnunet(tmp_path / "data")
    auto = Preprocessing(spacing="auto", normalize="auto", antialias=True)
    assert made("nnunet", root, tmp_path / "cache", preprocessing=auto).preprocessing.antialias
    assert not made("nnunet", root, tmp_path / "cache").preprocessing.antialias


def test_the_window_of_ct_is_chosen_without_damaged_cases(tmp_path: Path) -> None:
    root = write_nnunet(tmp_path / "data", channels=("CT",))
    image = volume(0)[0]
    image[10, 12] = np.nan
    save(root / "imagesTr" / "case_000_0000.nii.gz", image)
    data = made("nnunet", root, tmp_path / "cache")
    (problem,) = data.check(progress=False)
    assert (problem.case, problem.rule) == ("case_000", "voxels must be finite")


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "whole": [1, 2], "core": 1, "ignore": 2},
        {"background": 0, "shell": 1, "core": 2, "ignore": 1},
        {"background": 0, "shell": 1, "ignore": 0},
    ],
)
def test_an_ignored_value_of_another_label_is_refused(labels: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="ignore must be of no other label"):
        read_labels(labels, "here")


def test_a_data_root_is_needed() -> None:
    with pytest.raises(DataError, match="DATA_ROOT"):
        NNUNetDataModule()


def test_color_pictures_of_nnunet_have_their_channels_in_one_file(tmp_path: Path) -> None:
    root = tmp_path / "data"
    names = {"channel_names": {str(k): name for k, name in enumerate(("R", "G", "B"))}}
    write_json(root, names | {"labels": {"background": 0, "shell": 1, "core": 2}})
    for number in range(10):
        image, label = volume(number, (40, 32))
        for folder in ("imagesTr", "labelsTr"):
            (root / folder).mkdir(exist_ok=True)
        pixels = np.dstack([image.clip(0, 255).astype(np.uint8)] * 3)
        Image.fromarray(pixels).save(root / "imagesTr" / f"case_{number}_0000.png")
        Image.fromarray(label).save(root / "labelsTr" / f"case_{number}.png")
    data = made("nnunet", root, tmp_path / "cache")
    assert data.in_channels == 3
    assert data.check(progress=False) == []
    inputs = data.input_cases(root / "imagesTr")
    assert [case.id for case in inputs] == [f"case_{number}" for number in range(10)]
