"""Cases that several readers labeled: their majority, their mean, and a reader for each sample."""

import dataclasses
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import RandZoomd
from PIL import Image
from torch import Tensor

from datamodules import Augmentation, DataError, ImagesDataModule, TableDataModule
from datamodules.cache.store import source_key
from datamodules.reading.readers import majority, reader_probs
from datamodules.settings import check_raters
from tests.grouped import grouped

READERS = ["reader0", "reader1", "reader2"]
LABELS = {"background": 0, "inner": 1, "outer": 2}
STRONG = Augmentation(flip=0.5, rotation=40.0, scale=0.2, gamma=0.3, noise=0.1)
SHAPE = (18, 20, 4)


def write(folder: Path, cases: int = 6) -> Path:
    """Write volumes, and labels of three readers who draw their circles larger and larger."""
    rng = np.random.default_rng(0)
    affine = np.diag([1.5, 1.0, 4.0, 1.0])
    for name in ("images", *READERS):
        (folder / name).mkdir(parents=True)
    for number in range(cases):
        center = np.array(SHAPE[:2]) / 2 + rng.uniform(-2, 2, 2)
        x, y = np.indices(SHAPE[:2])
        radius = np.hypot(x - center[0], y - center[1])[..., None] + np.zeros(SHAPE[2])
        image = (100 * (radius < 6) + rng.normal(0, 20, SHAPE)).astype(np.float32)
        nib.save(nib.Nifti1Image(image, affine), folder / "images" / f"p{number}.nii.gz")
        for reader, size in zip(READERS, (4, 5, 7), strict=True):
            label = np.select([radius < size / 2, radius < size], [1, 2], 0).astype(np.uint8)
            nib.save(nib.Nifti1Image(label, affine), folder / reader / f"p{number}.nii.gz")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path / "nodules")


def build(root: Path, **settings: Any) -> ImagesDataModule:
    defaults: dict[str, Any] = {
        "readers": READERS, "labels": LABELS, "cache_dir": root.parent / "cache",
        "spacing": None, "orientation": None, "normalize": "zscore", "patch_size": (16, 16),
        "val_fraction": 0.2, "test_fraction": 0.2, "foreground": 0.0, "prepare_workers": 1,
        "batch_size": 3,
    }  # fmt: skip
    return ImagesDataModule(root, **grouped(**defaults | settings))


def ready(data: ImagesDataModule) -> ImagesDataModule:
    data.prepare()
    data.setup("fit")
    return data


def files(root: Path, case: str) -> np.ndarray:
    """The labels of the readers, as they are in their files."""
    paths = [root / reader / f"{case}.nii.gz" for reader in READERS]
    return np.stack([np.asarray(nib.load(path).dataobj) for path in paths])


def one_hot(label: Tensor) -> Tensor:
    """Labels (N, *S) as (N, C, *S), -100 where ignored."""
    shares = torch.stack([(label == k).float() for k in range(3)], dim=1)
    return shares.masked_fill((label == -100)[:, None], -100)


def test_majority_on_paper() -> None:
    readers = np.array([[0, 1, 2, 1, 255], [1, 1, 1, 2, 255], [0, 2, 0, 1, 255]], np.uint8)
    assert majority(readers, 3).tolist() == [0, 1, 0, 1, 255]  # three votes tie: the lowest class
    assert majority(np.array([[2], [1]], np.uint8), 3).tolist() == [1]
    probs = reader_probs(readers, 3)
    np.testing.assert_allclose(probs[:, 0], [2 / 3, 1 / 3, 0], atol=1e-7)
    np.testing.assert_allclose(probs.sum(axis=0), 1, atol=1e-7)


@pytest.mark.parametrize("settings", [{}, {"spatial_dims": 3, "patch_size": (8, 8, 4)}])
def test_a_test_case_has_all_labels_and_their_mean(root: Path, settings: dict) -> None:
    data = ready(build(root, **settings))
    batch = next(iter(data.test_dataloader()))
    found = files(root, batch["case"][0])
    assert batch["readers"].dtype == torch.int16
    np.testing.assert_array_equal(batch["readers"][0], found)
    shares = np.stack([(found == k).mean(axis=0) for k in range(3)])
    np.testing.assert_allclose(batch["posterior"][0], shares, atol=1e-6)
    np.testing.assert_array_equal(batch["label"][0], np.median(found, axis=0))
    assert not {"readers", "posterior"} & next(iter(data.val_dataloader())).keys()
    assert data.num_readers("test") == 3


def test_truth_is_on_the_native_grid(root: Path) -> None:
    data = ready(build(root, spacing=(2.0, 2.0), orientation="LPS"))
    case = data.cases("test")[0]
    truth, found = data.truth(case), files(root, case)
    np.testing.assert_array_equal(truth["readers"][0], found)
    np.testing.assert_array_equal(truth["label"][0], np.median(found, axis=0))
    assert truth["posterior"].shape == (1, 3, *SHAPE)
    coarse = next(iter(data.test_dataloader()))
    assert coarse["readers"].shape == (1, 3, 14, 10, 4)
    mean = one_hot(coarse["readers"][0].long()).mean(dim=0)
    torch.testing.assert_close(coarse["posterior"][0], mean)  # resampled as the labels are


def test_what_a_reader_ignores_is_ignored(root: Path) -> None:
    path = root / "reader2" / "p0.nii.gz"
    image = nib.load(path)
    label = np.asarray(image.dataobj).copy()
    label[:3] = 9
    nib.save(nib.Nifti1Image(label, image.affine), path)
    data = build(root, labels=LABELS | {"ignore": 9})
    truth = data.truth("p0")
    assert (truth["label"][0, :3] == -100).all()
    assert (truth["readers"][0, :, :3] == -100).all()
    assert (truth["label"][0, 3:] >= 0).all()


def test_problems_name_the_reader(root: Path) -> None:
    image = nib.load(root / "reader1" / "p0.nii.gz")
    label = np.asarray(image.dataobj)
    moved = image.affine + np.diag([0, 0, 0, 0.0])
    moved[0, 3] = 5
    for case, bad in (
        ("p0", nib.Nifti1Image(label[..., :3], image.affine)),
        ("p1", nib.Nifti1Image(label, moved)),
        ("p2", nib.Nifti1Image(label + np.uint8(5), image.affine)),
    ):
        nib.save(bad, root / "reader1" / f"{case}.nii.gz")
    problems = {problem.case: problem for problem in build(root).check(progress=False)}
    assert problems.keys() == {"p0", "p1", "p2"}
    assert all(f"reader1/{case}" in problem.path for case, problem in problems.items())
    assert "same shape" in problems["p0"].rule
    assert "affines" in problems["p1"].rule
    assert "5 (" in problems["p2"].found


def test_caches_of_one_reader_stay_valid(root: Path) -> None:
    several, single = build(root), build(root, readers=READERS[:1])
    (case, *_), (alone, *_) = (data.parts["test"] for data in (several, single))
    assert several.preparer.cache.folder == single.preparer.cache.folder
    assert source_key(case) != source_key(alone)
    assert source_key(alone) == source_key(dataclasses.replace(case, readers=()))
    for data, names in ((ready(several), {"readers"}), (ready(single), set())):
        cached = data.preparer.cache.find(data.parts["test"][0])
        assert {name for name in cached.arrays if name == "readers"} == names


def batches(data: ImagesDataModule, epoch: int = 0) -> list[dict[str, Any]]:
    loader = ready(data).train_dataloader()
    loader.batch_sampler.set_epoch(epoch)
    return list(loader)


GEOMETRY = {
    "2D": {"augmentation": STRONG},
    "3D": {"augmentation": STRONG, "spatial_dims": 3, "patch_size": (10, 12, 4)},
    "tilted": {
        "augmentation": dataclasses.replace(STRONG, tilt=20.0),
        "spatial_dims": 3,
        "patch_size": (10, 12, 4),
    },
    "cut": {"augmentation": Augmentation(flip=0.5), "crop": "random"},
    "transform": {"transform": RandZoomd(["image", "label"], 1.0, mode=["bilinear", "nearest"])},
}


@pytest.mark.parametrize("settings", GEOMETRY.values(), ids=GEOMETRY)
def test_each_readers_label_is_changed_as_the_image_is(root: Path, settings: dict) -> None:
    """Drawn readers and the mean are those of training on each reader's labels alone."""
    alone = [batches(build(root, readers=[reader], **settings)) for reader in READERS]
    drawn = batches(build(root, raters="sample", **settings))
    mean = batches(build(root, raters="mean", **settings))
    first = batches(build(root, raters="first", **settings))
    for number, batch in enumerate(mean):
        labels = [each[number]["label"] for each in alone]
        assert torch.equal(batch["image"], alone[0][number]["image"])
        torch.testing.assert_close(batch["label"], torch.stack([*map(one_hot, labels)]).mean(0))
        assert batch["label"].dtype == torch.float32
        assert torch.equal(first[number]["label"], labels[0])
        for row, label in enumerate(drawn[number]["label"]):
            assert any(torch.equal(label, each[row]) for each in labels)


def test_the_majority_is_the_default_and_draws_nothing(root: Path) -> None:
    default, voted = batches(build(root)), batches(build(root, raters="majority"))
    assert all(torch.equal(a["label"], b["label"]) for a, b in zip(default, voted, strict=True))


def test_draws_repeat_for_workers_and_resumed_epochs(root: Path) -> None:
    settings = {"raters": "sample", "augmentation": STRONG, "foreground": 0.5}
    whole = [
        batch["label"] for epoch in (0, 1) for batch in batches(build(root, **settings), epoch)
    ]
    workers = build(root, **settings, num_workers=2)
    assert all(torch.equal(a["label"], b) for a, b in zip(batches(workers), whole, strict=False))
    resumed = ready(build(root, **settings))
    resumed.start = (1, 2)
    loader = resumed.train_dataloader()
    loader.batch_sampler.set_epoch(1)
    rest = [batch["label"] for batch in loader]
    expected = whole[len(whole) // 2 + 2 :]
    assert len(rest) == len(expected) > 0
    assert all(torch.equal(a, b) for a, b in zip(rest, expected, strict=True))


def test_each_reader_is_drawn_about_as_often(root: Path) -> None:
    data = ready(build(root, raters="sample", patch_size=(18, 20)))
    dataset = data.train_dataset()
    voxels = [int((dataset[(epoch, 0, False)]["label"] > 0).sum()) for epoch in range(60)]
    counts = {size: voxels.count(size) for size in set(voxels)}
    assert len(counts) == 3
    assert min(counts.values()) > 8  # 20 expected, standard deviation 3.7


def test_readers_are_needed(root: Path) -> None:
    data = build(root, readers=READERS[:1], raters="sample")
    data.prepare()
    with pytest.raises(DataError, match=r"raters sample needs .* several readers, found 1 a case"):
        data.setup("fit")
    with pytest.raises(DataError, match=r"same number of readers .* found 2, 3 a case"):
        check_raters("mean", readers=[2, 3, 3], root=root)
    check_raters("sample", readers=[1, 3], root=root)
    with pytest.raises(ValueError, match=r"raters must be majority or .* got 'median'"):
        build(root, raters="median")


def test_pictures_in_a_table(tmp_path: Path) -> None:
    rows = ["case,patient,image,reader_ann,reader_bob,reader_eve"]
    rng = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (20, 24), np.uint8)).save(tmp_path / f"{number}.png")
        names = [f"{number}{reader}.png" for reader in "abe"]
        for reader, name in enumerate(names):
            mask = np.zeros((20, 24), np.uint8)
            mask[4 : 8 + 2 * reader, 6:12] = 255
            Image.fromarray(mask).save(tmp_path / name)
        rows.append(f"c{number},c{number},{number}.png,{','.join(names)}")
    (tmp_path / "cases.csv").write_text("\n".join(rows))
    settings = grouped(cache_dir=tmp_path / "cache", patch_size=(16, 16), spacing=None,
                       normalize="zscore", val_fraction=0.2, prepare_workers=1)  # fmt: skip
    data = TableDataModule(tmp_path, **settings)
    data.prepare()
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    assert batch["readers"].shape == (1, 3, 24, 20, 1)
    assert batch["label"].sum() == 6 * 6  # the second reader's, of 4, 6 and 8 rows
