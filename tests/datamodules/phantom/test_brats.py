import csv
import dataclasses
import filecmp
import json

import nibabel as nib
import numpy as np
import pytest

from datamodules.phantom import BrainPhantom, brats, load_posterior, write_brats_phantom
from datamodules.phantom.brats_patient import make_case
from datamodules.phantom.brats_render import MODALITIES

PATIENTS = {"train": 2, "val": 1, "test": 1}
NEW_NAMES = ("t1n", "t1c", "t2w", "t2f", "seg")


def write(root, settings, **changes):
    options = {"patients": PATIENTS, "settings": settings, "seed": 3, "workers": 1}
    write_brats_phantom(root, progress=False, **(options | changes))
    return root


@pytest.fixture(scope="module")
def root(coarse_brain, tmp_path_factory):
    return write(tmp_path_factory.mktemp("phantom") / "brats", coarse_brain)


def files(root):
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def load(path):
    return np.asanyarray(nib.load(path).dataobj)


def test_layout_is_that_of_2021(root):
    expected = ["phantom.json", "split.json"]
    names = [f"BraTS2021_{number:05d}" for number in (0, 1, 3, 4)]
    for name in names:
        folder = f"RSNA_ASNR_MICCAI_BraTS2021_TrainingData/{name}"
        expected += [f"{folder}/{name}_{m}.nii.gz" for m in (*MODALITIES, "seg")]
        expected.append(f"posterior/{name}/{name}.npz")
    assert files(root) == sorted(expected)
    split = json.loads((root / "split.json").read_text())
    assert split == {"train": names[:2], "val": names[2:3], "test": names[3:]}
    card = json.loads((root / "phantom.json").read_text())
    assert (card["origin"], card["dataset"], card["seed"]) == ("phantom", "brats", 3)
    assert card["settings"]["release"] == "2021"


def test_volumes_labels_and_posteriors_fit_together(root):
    kinds = []
    for path in sorted(root.rglob("*_seg.nii.gz")):
        images = [nib.load(str(path).replace("_seg", f"_{m}")) for m in MODALITIES]
        label = nib.load(path)
        assert label.get_data_dtype() == np.uint8
        assert {image.get_data_dtype() for image in images} == {np.dtype(np.int16)}
        assert {image.shape for image in images} == {label.shape} == {(40, 48, 36)}
        values = np.asanyarray(label.dataobj)
        kinds.append(set(np.unique(values).tolist()))
        brain = np.asanyarray(images[0].dataobj) > 0
        for image in images:
            data = np.asanyarray(image.dataobj)
            np.testing.assert_array_equal(data > 0, brain)
            assert data.min() == 0
        assert 900 < brain.sum() * 64 / 1000 < 1700  # mL
        assert not (values > 0)[~brain].any()
        name = path.parent.name
        probs = load_posterior(root / "posterior" / name / f"{name}.npz")
        assert probs.shape == (4, *label.shape)
        np.testing.assert_allclose(probs.sum(axis=0), 1, atol=1e-6)
        assert (probs[0] == 1)[~brain].all()
        classes = np.searchsorted([0, 1, 2, 4], values)
        assert np.take_along_axis(probs, classes[None], 0).min() > 0
        sure = probs.max(axis=0) > 0.6
        assert (probs.argmax(axis=0) == classes)[sure].mean() > 0.98
    assert sorted(map(sorted, kinds)) == [[0, 1, 2]] + 3 * [[0, 1, 2, 4]]  # one of four without


def test_headers_are_those_of_the_release(root):
    for path in root.rglob("*.nii.gz"):
        image = nib.load(path)
        expected = np.diag([-4.0, -4.0, 4.0, 1.0])
        expected[1, 3] = 47 * 4
        np.testing.assert_allclose(image.affine, expected)
        np.testing.assert_allclose(image.header.get_qform(), expected, atol=1e-5)
        assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
        assert image.header.get_zooms() == (4, 4, 4)
    full = BrainPhantom.full_size()
    assert (full.shape, full.voxel_mm) == ((240, 240, 155), 1.0)
    assert BrainPhantom.full_size(release="2023").release == "2023"


@pytest.mark.parametrize(
    ("release", "home"),
    [("2018", "MICCAI_BraTS_2018_Data_Training"), ("2019", "MICCAI_BraTS_2019_Data_Training")],
)
def test_layout_with_grades(release, home, coarse_brain, tmp_path):
    settings = dataclasses.replace(coarse_brain, release=release, suffix=".nii")
    root = write(tmp_path / "brats", settings)
    split = json.loads((root / "split.json").read_text())
    found = {}
    for grade in ("HGG", "LGG"):
        for folder in (root / home / grade).iterdir():
            names = {f"{folder.name}_{m}.nii" for m in (*MODALITIES, "seg")}
            assert {path.name for path in folder.iterdir()} == names
            found[folder.name] = grade
            enhancing = (load(folder / f"{folder.name}_seg.nii") == 4).any()
            assert enhancing == (grade == "HGG")
    assert sorted(found) == sorted(name for part in split.values() for name in part)
    prefix = "Brats18_" if release == "2018" else "BraTS19_"
    assert all(name.startswith(prefix) and name.endswith("_1") for name in found)
    assert sorted(found.values()) == ["HGG"] * 3 + ["LGG"]


def test_layout_of_2020_has_its_lists(coarse_brain, tmp_path):
    root = write(tmp_path / "brats", dataclasses.replace(coarse_brain, release="2020"))
    home = root / "MICCAI_BraTS2020_TrainingData"
    names = [f"BraTS20_Training_{n:03d}" for n in range(1, 5)]
    assert sorted(p.name for p in home.iterdir() if p.is_dir()) == names
    with (home / "name_mapping.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "Grade",
        "BraTS_2017_subject_ID",
        "BraTS_2018_subject_ID",
        "TCGA_TCIA_subject_ID",
        "BraTS_2019_subject_ID",
        "BraTS_2020_subject_ID",
    ]
    assert [row["BraTS_2020_subject_ID"] for row in rows] == names
    assert {row["BraTS_2019_subject_ID"][:8] for row in rows} == {"BraTS19_", "NA"}
    with (home / "survival_info.csv").open() as file:
        survival = list(csv.DictReader(file))
    assert list(survival[0]) == ["Brats20ID", "Age", "Survival_days", "Extent_of_Resection"]
    high = [row["BraTS_2020_subject_ID"] for row in rows if row["Grade"] == "HGG"]
    assert [row["Brats20ID"] for row in survival] == high


@pytest.mark.parametrize("release", ["2023", "2024"])
def test_layout_with_time_points(release, coarse_brain, tmp_path):
    settings = dataclasses.replace(
        coarse_brain, release=release, followup_fraction=0.5, cavity_fraction=1.0
    )
    root = write(tmp_path / "brats", settings)
    split = json.loads((root / "split.json").read_text())
    patients = [f"BraTS-GLI-{number:05d}" for number in (0, 1, 3, 4)]
    assert split == {"train": patients[:2], "val": patients[2:3], "test": patients[3:]}
    folders = sorted((root / brats.FOLDERS[release]).iterdir())
    visits = {p: [f.name for f in folders if f.name.startswith(p)] for p in patients}
    assert sorted(map(len, visits.values())) == [1, 1, 2, 2]
    seen = set()
    for folder in folders:
        assert {p.name for p in folder.iterdir()} == {
            f"{folder.name}-{m}.nii.gz" for m in NEW_NAMES
        }
        values = load(folder / f"{folder.name}-seg.nii.gz")
        seen |= set(np.unique(values).tolist())
        truth = root / "posterior" / folder.name[:-4] / f"{folder.name}.npz"
        probs = load_posterior(truth)
        assert len(probs) == (5 if release == "2024" else 4)
        assert np.take_along_axis(probs, values[None].astype(int), 0).min() > 0
    assert seen == ({0, 1, 2, 3, 4} if release == "2024" else {0, 1, 2, 3})
    first, second = next(names for names in visits.values() if len(names) == 2)
    volumes = [
        (load_posterior(root / "posterior" / first[:-4] / f"{n}.npz")[1:].sum())
        for n in (first, second)
    ]
    assert volumes[1] > 1.1 * volumes[0]  # it has grown


def test_files_do_not_depend_on_the_workers(root, coarse_brain, tmp_path):
    write(tmp_path / "two", coarse_brain, workers=2)
    assert files(root) == files(tmp_path / "two")
    _, differ, odd = filecmp.cmpfiles(root, tmp_path / "two", files(root), shallow=False)
    assert (differ, odd) == ([], [])


def test_another_seed_is_another_phantom(root, coarse_brain, tmp_path):
    write(tmp_path / "other", coarse_brain, seed=4)
    name = next(name for name in files(root) if name.endswith("_t1.nii.gz"))
    assert not np.array_equal(load(root / name), load(tmp_path / "other" / name))


def test_images_look_as_their_names_say():
    """Medians well inside each tissue, relative to white matter."""
    for number in (1, 2):
        case = make_case(BrainPhantom(bias_field=(0, 0)), number=number, kind="ring")
        whole, core, rim = (layer for layer in case.annotation.layers if layer.chance == 1)

        def region(layer, depth, case=case):
            mask = np.zeros(case.images.shape[1:], dtype=bool)
            mask[layer.box] = layer.distance < depth
            return mask

        images = dict(zip(MODALITIES, case.images, strict=True))
        brain = images["t1"] > 0
        oedema = region(whole, -1.5) & ~region(core, 3)
        enhancing = region(core, -1.0) & region(rim, -1.5)
        necrosis = region(core, -2) & ~region(rim, 2)
        away = brain & ~region(whole, 8)
        white = away & (images["t1"] > np.percentile(images["t1"][away], 60))
        liquor = away & (images["t2"] > np.percentile(images["t2"][away], 99))
        level = {
            name: {
                tissue: float(np.median(images[name][mask]) / np.median(images[name][white]))
                for tissue, mask in {
                    "oedema": oedema,
                    "enhancing": enhancing,
                    "necrosis": necrosis,
                    "liquor": liquor,
                }.items()
            }
            for name in MODALITIES
        }
        assert 0.5 < level["t1"]["oedema"] < 0.85
        assert level["t1"]["necrosis"] < level["t1"]["oedema"]
        assert level["t1"]["liquor"] < 0.6
        assert level["t1ce"]["enhancing"] > 1.3 > level["t1"]["enhancing"] * 1.3
        assert level["t1ce"]["oedema"] < 0.9
        assert level["t2"]["liquor"] > level["t2"]["oedema"] > 1.5
        assert level["t2"]["necrosis"] > level["t2"]["oedema"]
        assert level["flair"]["oedema"] > 1.5
        assert level["flair"]["liquor"] < 0.7
        assert level["flair"]["necrosis"] < level["flair"]["oedema"]


def test_image_shows_the_mean_shape_and_nothing_of_the_annotator(coarse_brain):
    other = dataclasses.replace(coarse_brain, sigma_mm=(4, 3, 2), bias_share=0.9, satellite_pi=0.1)
    first, second = (
        make_case(s, number=3, kind="ring", satellite=True) for s in (coarse_brain, other)
    )
    np.testing.assert_array_equal(first.images, second.images)


def test_sizes_are_those_of_brats():
    """Median and spread of the mean shapes: within a factor of what BraTS18 has."""
    volumes = []
    for number in range(1, 11):
        settings = BrainPhantom(shape=(40, 48, 36), voxel_mm=4.0)
        case = make_case(settings, number=number, kind="ring")
        whole, core, _ = (layer.inside().sum() * 64 / 1000 for layer in case.annotation.layers)
        volumes.append((whole, core))
    whole, core = np.median(volumes, axis=0)
    assert 45 < whole < 130  # 72 mL in BraTS18
    assert 12 < core < 50  # 25 mL
    assert np.std(np.log(np.array(volumes)[:, 1])) > 0.4


def test_default_is_small(tmp_path):
    """A patient is 1.1 MB on disk."""
    root = write(tmp_path / "brats", None, patients={"train": 1, "val": 1, "test": 1})
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    assert size < 3 * 1.6e6
    case = next(root.rglob("*_seg.nii.gz"))
    assert load(case).shape == (80, 96, 72)


def test_other_settings_and_folders_are_refused(root, coarse_brain, tmp_path):
    write(root, coarse_brain)  # is there, and is left alone
    with pytest.raises(ValueError, match="other release"):
        write(root, dataclasses.replace(coarse_brain, release="2023"))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="Not a phantom"):
        write(tmp_path, coarse_brain)
    with pytest.raises(ValueError, match="seed must be >= 0"):
        write(tmp_path / "a", coarse_brain, seed=-1)


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"release": "2017"}, "release must be one of 2018, .*, got '2017'"),
        ({"suffix": ".mha"}, "suffix must be .nii.gz or .nii, got '.mha'"),
        ({"shape": (80, 96)}, r"shape must be three sizes >= 16, got \(80, 96\)"),
        ({"voxel_mm": 0.0}, "voxel_mm must be > 0, got 0.0"),
        ({"sigma_mm": (1.0, 0.0, 1.0)}, "sigma_mm must be three numbers > 0"),
        ({"satellite_pi": 1.5}, r"satellite_pi must be in \[0, 1\], got 1.5"),
        ({"noise": (0.3, 0.1)}, "noise must be"),
    ],
)
def test_settings_are_checked(setting, text):
    with pytest.raises(ValueError, match=text):
        BrainPhantom(**setting)
