"""A dataset of two modalities with a zero background, from its files to native-grid scores."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from datamodules import Case, DataError, SegmentationDataModule, Survey
from datamodules.layouts.inputs import group_inputs
from datamodules.reading.checks import IGNORED, RawCase
from tests.datamodules.conftest import save
from tests.grouped import grouped

AFFINE = np.array([[0, -1.5, 0, 4.0], [1.2, 0, 0, -7], [0, 0, 2.0, 3], [0, 0, 0, 1]])
SHAPE = (22, 18, 12)
BRAIN = (slice(4, 18), slice(3, 15), slice(2, 11))


class Heads(SegmentationDataModule):
    """Two modalities of a box in a zero background; a voxel in each case is nobody's."""

    dataset = "heads"
    num_classes = 3
    class_names = ("background", "oedema", "tumour")
    class_keys = ("background", "oedema", "tumour")
    in_channels = 2
    label_map = {0: 0, 2: 1, 4: 2}  # noqa: RUF012
    zero_background = True

    def discover(self, root: Path) -> Survey:
        cases = tuple(
            Case(f.name, f.name, tuple(f / f"{f.name}_{m}.nii.gz" for m in ("t1", "t2")),
                 f / f"{f.name}_seg.nii.gz")
            for f in sorted(root.iterdir())
        )  # fmt: skip
        return Survey(cases, frozenset(case.patient for case in cases))

    def input_cases(self, path: Path) -> list[Case]:
        return group_inputs(path, (("_t1",), ("_t2",)))

    def write_phantom(self, folder: Path, *, progress: bool) -> None:
        raise NotImplementedError

    @staticmethod
    def amend(case: Case, raw: RawCase) -> RawCase:
        if raw.label is not None:
            raw.label[6, 6, 6] = IGNORED
        return raw


def write_head(folder: Path, seed: int, *, affine: np.ndarray = AFFINE) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    label = np.zeros(SHAPE, np.uint8)
    label[7:13, 6:11, 4:9] = 2
    label[8:11, 7:10, 5:8] = 4
    for name, gain in (("t1", 100), ("t2", 7)):
        image = np.zeros(SHAPE, np.float32)
        image[BRAIN] = gain * (2 + label[BRAIN] + rng.uniform(0.1, 1, label[BRAIN].shape))
        save(folder / f"{folder.name}_{name}.nii.gz", image, affine)
    save(folder / f"{folder.name}_seg.nii.gz", label, affine)


@pytest.fixture
def heads(tmp_path: Path) -> Path:
    for number in range(6):
        write_head(tmp_path / "heads" / f"head{number}", number)
    names = [f"head{n}" for n in range(6)]
    split = {"train": names[:4], "val": names[4:5], "test": names[5:]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    return tmp_path / "heads"


def build(heads: Path, **settings: Any) -> Heads:
    defaults: dict[str, Any] = {
        "phantom_root": heads / "none",
        "cache_dir": heads.parent / "cache",
        "split": heads.parent / "split.json",
        "normalize": "zscore_nonzero",
        "crop_above": 0.0,
        "dtype": "float16",
        "spatial_dims": 3,
        "patch_size": (8, 8, 8),
        "crop": "random",
        "foreground": 1 / 3,
        "batch_size": 2,
    }
    built = Heads(heads, **grouped(**defaults | settings))
    built.prepare(progress=False)
    built.setup("fit")
    return built


def test_volumes_are_cropped_normalized_and_in_order(heads: Path) -> None:
    built = build(heads)
    batch = next(iter(built.test_dataloader()))
    assert batch["image"].shape == (1, 2, 12, 14, 9)  # LPS: the file's first two axes change place
    for channel in batch["image"][0]:
        assert channel.mean() == pytest.approx(0, abs=5e-3)
        assert channel.std() == pytest.approx(1, abs=5e-3)
    assert batch["spacing"].tolist() == [[1.5, pytest.approx(1.2), 2.0]]
    counts = torch.unique(batch["label"], return_counts=True)
    assert dict(zip(counts[0].tolist(), counts[1].tolist(), strict=True)) == {
        -100: 1, 0: 12 * 14 * 9 - 150 - 1, 1: 150 - 27, 2: 27,
    }  # fmt: skip


def test_restoring_undoes_the_crop(heads: Path) -> None:
    built = build(heads)
    batch = next(iter(built.test_dataloader()))
    logits = torch.nn.functional.one_hot(batch["label"].clamp(min=0), 3).movedim(-1, 1) * 9.0
    native, affine = built.restore("head5", logits[0])
    assert native.shape == (3, *SHAPE)
    np.testing.assert_allclose(affine, AFFINE, rtol=1e-6)
    truth = built.truth("head5")
    assert truth["label"].shape == (1, *SHAPE)
    assert truth["label"].dtype == torch.int64
    assert truth["spacing"].tolist() == [[pytest.approx(1.2), 1.5, 2.0]]
    known = truth["label"][0] != -100
    assert int((~known).sum()) == 1
    assert torch.equal(native.argmax(0)[known], truth["label"][0][known])
    outside = torch.ones(SHAPE, dtype=torch.bool)
    outside[BRAIN] = False
    assert (native.softmax(0)[0][outside] > 1 - 1e-6).all()


def test_background_is_masked_in_evaluation_alone(heads: Path) -> None:
    """Without a crop the zero background is there: trained on, and scored unless masked."""
    settings = {"crop_above": None, "patch_size": SHAPE[1::-1] + SHAPE[2:], "crop": "center"}
    plain = build(heads, **settings)
    masked = build(heads, **settings, mask_background=True)
    assert plain.fingerprint != masked.fingerprint
    assert plain.preparer.cache.folder == masked.preparer.cache.folder
    brain = 14 * 12 * 9
    for built, expected in ((plain, np.prod(SHAPE) - 1), (masked, brain - 1)):
        batch = next(iter(built.val_dataloader()))
        assert int((batch["label"] != -100).sum()) == expected
        assert int((built.truth("head4")["label"] != -100).sum()) == expected
        train = next(iter(built.train_dataloader()))
        assert int((train["label"] != -100).sum()) == 2 * (np.prod(SHAPE) - 1)
        assert set(train["label"].unique().tolist()) == {-100, 0, 1, 2}


def test_slices_of_the_same_cases(heads: Path) -> None:
    built = build(heads, spatial_dims=2, patch_size=(14, 16), foreground=0.5, batch_size=4)
    batch = next(iter(built.train_dataloader()))
    assert batch["image"].shape == (4, 2, 14, 16)
    assert (batch["label"] > 0).flatten(1).any(1).sum() >= 2


def test_prediction_of_files_without_labels(heads: Path) -> None:
    """The box of a case that is not in the cache comes from its files."""
    built = build(heads, spacing=(1.0, 1.0, 1.0), antialias=True)
    fresh = heads.parent / "new"
    write_head(fresh / "new1", 77)
    (fresh / "new1" / "new1_seg.nii.gz").unlink()
    built.predict_input = fresh
    (batch,) = built.predict_dataloader()
    assert batch["case"] == ["new1"]
    assert batch["image"].shape == (1, 2, 18, 17, 18)
    logits, affine = built.restore("new1", torch.zeros(3, *batch["image"].shape[2:]))
    assert logits.shape == (3, *SHAPE)
    np.testing.assert_allclose(affine, AFFINE, rtol=1e-6)


def test_modalities_on_other_grids_are_named(heads: Path) -> None:
    other = nib.load(heads / "head1" / "head1_t2.nii.gz")
    data = np.asarray(other.dataobj)
    save(heads / "head1" / "head1_t2.nii.gz", data[:-1], AFFINE)
    moved = AFFINE.copy()
    moved[0, 3] += 1.5
    save(heads / "head2" / "head2_t2.nii.gz", data, moved)
    with pytest.raises(DataError) as error:
        build(heads)
    found = {Path(fault.path).name: fault for fault in error.value.problems}
    assert set(found) == {"head1_t2.nii.gz", "head2_t2.nii.gz"}
    assert "the modalities of a case must have the same shape" in found["head1_t2.nii.gz"].rule
    assert "the affines of the modalities of a case must" in found["head2_t2.nii.gz"].rule


def test_a_memory_of_a_few_volumes(heads: Path) -> None:
    """Resampling a large case needs no more than a few float32 volumes of it at once."""
    import tracemalloc

    from datamodules.cache.preprocessing import Preprocessing, prepare_case

    size = (96, 96, 96)
    image = np.random.default_rng(0).normal(300, 50, (2, *size)).astype(np.float32)
    raw = RawCase(image, np.zeros(size, np.uint8), None, np.eye(4), np.eye(4))
    settings = Preprocessing(
        "LPS", (1.3, 1.3, 1.3), "window", dtype="float16", window=(0.0, 500.0), antialias=True
    )
    prepare_case(raw, settings)
    tracemalloc.start()
    prepare_case(raw, settings)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * image[0].nbytes  # numpy's; torch's results are smaller, the grid is coarser
