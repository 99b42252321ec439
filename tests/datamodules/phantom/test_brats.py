"""BraTS's phantom: the layout of each release, its headers, and the sizes of tumors."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from datamodules.phantom import BRATS, Patient, PhantomSettings, brats, load_posterior, posterior
from datamodules.phantom.brats import MODALITIES
from tests.datamodules.phantom.conftest import files, write

NEW_NAMES = ("t1n", "t1c", "t2w", "t2f", "seg")


def coarse(release, **quirks):
    quirks = {"low grade": 0.25, **quirks}
    return PhantomSettings(release=release, coarsen=3, quirks=quirks)


def load(path):
    return np.asanyarray(nib.load(path).dataobj)


def test_layout_is_that_of_2021(roots):
    expected = ["phantom.json", "split.json"]
    names = [f"BraTS2021_{number:05d}" for number in (0, 1, 3, 4)]
    kinds = []
    for name in names:
        folder = f"RSNA_ASNR_MICCAI_BraTS2021_TrainingData/{name}"
        expected += [f"{folder}/{name}_{m}.nii.gz" for m in (*MODALITIES, "seg")]
        expected.append(f"posterior/{name}/{name}.npz")
        images = [load(roots["brats"] / folder / f"{name}_{m}.nii.gz") for m in MODALITIES]
        brain, values = images[0] > 0, load(roots["brats"] / folder / f"{name}_seg.nii.gz")
        assert all(((image > 0) == brain).all() and image.min() == 0 for image in images)
        assert 900 < brain.sum() * 64 / 1000 < 1700  # mL
        assert not values[~brain].any()
        kinds.append(np.unique(values).tolist())
    assert files(roots["brats"]) == sorted(expected)
    assert sorted(kinds) == [[0, 1, 2]] + 3 * [[0, 1, 2, 4]]  # one of four does not enhance


def test_headers_are_those_of_the_release(roots):
    for path in roots["brats"].rglob("*.nii.gz"):
        image = nib.load(path)
        assert (image.shape, image.header.get_zooms()) == ((40, 48, 36), (4, 4, 4))
        expected = np.diag([-4.0, -4.0, 4.0, 1.0])
        expected[1, 3] = 47 * 4
        np.testing.assert_allclose(image.affine, expected)
        np.testing.assert_allclose(image.header.get_qform(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "shape", "size"),
    [({}, (80, 96, 72), 2), ({"full_size": True, "coarsen": 5}, (48, 48, 31), 5)],
)
def test_grids(settings, shape, size):
    images, case, _ = brats.make_case(Patient(1), PhantomSettings(**settings))
    assert images.shape[1:] == case.shape == shape
    assert case.spacing == (size,) * 3


@pytest.mark.parametrize(
    ("release", "home", "prefix"),
    [
        ("2018", "MICCAI_BraTS_2018_Data_Training", "Brats18_"),
        ("2019", "MICCAI_BraTS_2019_Data_Training", "BraTS19_"),
    ],
)
def test_layout_with_grades(release, home, prefix, tmp_path):
    root = write(tmp_path / "brats", "brats", settings=coarse(release))
    split = json.loads((root / "split.json").read_text())
    found = {}
    for grade in ("HGG", "LGG"):
        for folder in (root / home / grade).iterdir():
            names = {f"{folder.name}_{m}.nii.gz" for m in (*MODALITIES, "seg")}
            assert {path.name for path in folder.iterdir()} == names
            found[folder.name] = grade
            enhancing = (load(folder / f"{folder.name}_seg.nii.gz") == 4).any()
            assert enhancing == (grade == "HGG")
    assert sorted(found) == sorted(name for part in split.values() for name in part)
    assert all(name.startswith(prefix) and name.endswith("_1") for name in found)
    assert sorted(found.values()) == ["HGG"] * 3 + ["LGG"]


def test_layout_of_2020_has_its_lists(tmp_path):
    root = write(tmp_path / "brats", "brats", settings=coarse("2020"))
    home = root / "MICCAI_BraTS2020_TrainingData"
    names = [f"BraTS20_Training_{n:03d}" for n in range(1, 5)]
    assert sorted(p.name for p in home.iterdir() if p.is_dir()) == names
    with (home / "name_mapping.csv").open() as file:
        rows = list(csv.DictReader(file))
    heads = ("BraTS_2017", "BraTS_2018", "TCGA_TCIA", "BraTS_2019", "BraTS_2020")
    assert list(rows[0]) == ["Grade", *(f"{head}_subject_ID" for head in heads)]
    assert [row["BraTS_2020_subject_ID"] for row in rows] == names
    assert {row["BraTS_2019_subject_ID"][:8] for row in rows} == {"BraTS19_", "NA"}
    with (home / "survival_info.csv").open() as file:
        survival = list(csv.DictReader(file))
    assert list(survival[0]) == ["Brats20ID", "Age", "Survival_days", "Extent_of_Resection"]
    high = [row["BraTS_2020_subject_ID"] for row in rows if row["Grade"] == "HGG"]
    assert [row["Brats20ID"] for row in survival] == high


@pytest.mark.parametrize("release", ["2023", "2024"])
def test_layout_with_time_points(release, tmp_path):
    settings = coarse(release, **{"second visit": 0.5, "cavity": 1.0})
    root = write(tmp_path / "brats", "brats", settings=settings)
    patients = [f"BraTS-GLI-{number:05d}" for number in (0, 1, 3, 4)]
    split = json.loads((root / "split.json").read_text())
    assert split == {"train": patients[:2], "val": patients[2:3], "test": patients[3:]}
    folders = sorted((root / brats.FOLDERS[release]).iterdir())
    visits = {p: [f.name for f in folders if f.name.startswith(p)] for p in patients}
    assert sorted(map(len, visits.values())) == [1, 1, 2, 2]
    seen = set()
    for folder in folders:
        names = {f"{folder.name}-{m}.nii.gz" for m in NEW_NAMES}
        assert {p.name for p in folder.iterdir()} == names
        values = load(folder / f"{folder.name}-seg.nii.gz")
        seen |= set(np.unique(values).tolist())
        probs = load_posterior(root / "posterior" / folder.name[:-4] / f"{folder.name}.npz")
        assert len(probs) == (5 if release == "2024" else 4)
        assert np.take_along_axis(probs, values[None].astype(int), 0).min() > 0
    assert seen == ({0, 1, 2, 3, 4} if release == "2024" else {0, 1, 2, 3})
    pair = next(names for names in visits.values() if len(names) == 2)
    first, second = (
        load_posterior(root / "posterior" / name[:-4] / f"{name}.npz")[1:].sum() for name in pair
    )
    assert second > 1.1 * first  # it has grown


def test_sizes_are_about_those_of_brats():
    """Of the mean shapes: medians in BraTS18 are 72 mL and, of the core, 25 mL."""
    settings = BRATS.settled(PhantomSettings(coarsen=2))
    volumes = []
    for number in range(1, 13):
        _, case, growth = brats.make_case(Patient(number), settings)
        assert growth.kind == "ring"
        probs = posterior(case)
        volumes.append([probs[1:].sum() * 64 / 1000, probs[[1, 3]].sum() * 64 / 1000])
    whole, core = np.median(volumes, axis=0)
    assert 45 < whole < 130
    assert 12 < core < 50
    assert np.std(np.log(np.array(volumes)[:, 1])) > 0.4
