import dataclasses
import filecmp
import json

import nibabel as nib
import numpy as np
import pytest

from datamodules.phantom import AbdomenPhantom, load_posterior, write_flare_phantom
from datamodules.phantom.flare_organs import ORGANS
from datamodules.phantom.flare_patient import make_abdomen

PATIENTS = {"train": 2, "val": 1, "test": 1}


def write(root, settings, **changes):
    options = {"patients": PATIENTS, "settings": settings, "seed": 3, "workers": 1}
    write_flare_phantom(root, progress=False, **(options | changes))
    return root


@pytest.fixture(scope="module")
def root(coarse_abdomen, tmp_path_factory):
    return write(tmp_path_factory.mktemp("phantom") / "flare", coarse_abdomen)


def files(root):
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def load(path):
    return np.asanyarray(nib.load(path).dataobj)


@pytest.mark.parametrize(
    ("release", "folders", "image", "label", "names"),
    [
        (
            "2021",
            "original",
            "FLARE21/TrainingImg/{}_0000.nii.gz",
            "FLARE21/TrainingMask/{}.nii.gz",
            [f"train_{n:03d}" for n in range(4)],
        ),
        (
            "2021",
            "nnunet",
            "FLARE21/imagesTr/{}.nii.gz",
            "FLARE21/labelsTr/{}.nii.gz",
            [f"train_{n:03d}" for n in range(4)],
        ),
        (
            "2022",
            "original",
            "FLARE22_LabeledCase50/images/{}_0000.nii.gz",
            "FLARE22_LabeledCase50/labels/{}.nii.gz",
            [f"FLARE22_Tr_{n:04d}" for n in range(1, 5)],
        ),
        (
            "2022",
            "nnunet",
            "FLARE22Train/imagesTr/{}_0000.nii.gz",
            "FLARE22Train/labelsTr/{}.nii.gz",
            [f"FLARE22_Tr_{n:04d}" for n in range(1, 5)],
        ),
        (
            "1k",
            "original",
            "AbdomenCT-1K/imagesTr/{}_0000.nii.gz",
            "AbdomenCT-1K/labels/{}.nii.gz",
            [f"Case_{n:05d}" for n in range(1, 5)],
        ),
    ],
)
def test_layouts(release, folders, image, label, names, coarse_abdomen, tmp_path):
    settings = dataclasses.replace(coarse_abdomen, release=release, folders=folders)
    root = write(tmp_path / "flare", settings)
    expected = ["phantom.json", "split.json"]
    for name in names:
        expected += [image.format(name), label.format(name), f"posterior/{name}/{name}.npz"]
    if release == "1k":
        expected.append("AbdomenCT-1K/dataset.json")
        content = json.loads((root / "AbdomenCT-1K/dataset.json").read_text())
        assert content["numTraining"] == len(content["training"]) == 4
        assert content["training"][0]["label"] == "./labels/Case_00001.nii.gz"
    assert files(root) == sorted(expected)
    split = json.loads((root / "split.json").read_text())
    assert split == {"train": names[:2], "val": names[2:3], "test": names[3:]}
    most = 13 if release == "2022" else 4
    for name in names:
        values = load(root / label.format(name))
        assert set(np.unique(values).tolist()) <= set(range(most + 1))
        assert set(np.unique(values).tolist()) >= {0, 1, 2, 3, 4}
        probs = load_posterior(root / f"posterior/{name}/{name}.npz")
        assert probs.shape == (most + 1, *values.shape)


def test_volumes_labels_and_posteriors_fit_together(root):
    """Also in files whose axes are turned: the posterior is turned with them."""
    for path in sorted(root.rglob("images/*.nii.gz")):
        name = path.name.removesuffix("_0000.nii.gz")
        label = nib.load(root / "FLARE22_LabeledCase50" / "labels" / f"{name}.nii.gz")
        image = nib.load(path)
        assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)
        assert image.shape == label.shape
        np.testing.assert_array_equal(image.affine, label.affine)
        data, values = np.asanyarray(image.dataobj), np.asanyarray(label.dataobj)
        assert -1024 == data.min() < data.max() < 1500
        probs = load_posterior(root / "posterior" / name / f"{name}.npz")
        np.testing.assert_allclose(probs.sum(axis=0), 1, atol=1e-6)
        assert np.take_along_axis(probs, values[None].astype(int), 0).min() > 0
        sure = probs.max(axis=0) > 0.6
        assert (probs.argmax(axis=0) == values)[sure].mean() > 0.98


def test_headers_point_in_several_directions_and_anatomy_does_not(coarse_abdomen, tmp_path):
    """Reoriented, the liver is on the right, the spine at the back, the lungs at the top."""
    codes = ("LPS", "RAS", "IPL", "LAI")
    root = write(tmp_path / "flare", dataclasses.replace(coarse_abdomen, orientations=codes))
    seen = set()
    for path in sorted(root.rglob("images/*.nii.gz")):
        name = path.name.removesuffix("_0000.nii.gz")
        image = nib.load(path)
        label = nib.load(root / "FLARE22_LabeledCase50" / "labels" / f"{name}.nii.gz")
        code = "".join(nib.aff2axcodes(image.affine))
        seen.add(code)
        zooms = dict(zip(code, image.header.get_zooms(), strict=True))
        thick = {axis: size for axis, size in zooms.items() if axis in "SI"}
        assert list(thick.values()) == [10]
        np.testing.assert_allclose(image.header.get_qform(), image.affine, atol=1e-3)
        data = np.asanyarray(nib.as_closest_canonical(image).dataobj)  # indices rise to the right
        values = np.asanyarray(nib.as_closest_canonical(label).dataobj)
        place = {k: np.argwhere(values == k).mean(axis=0) for k in (1, 2, 3, 5, 13)}
        assert place[1][0] > place[3][0]  # liver right of spleen
        assert place[2][0] > place[5][0] > place[13][0]  # kidneys on either side of the aorta
        bone = np.argwhere(data > 250)
        assert bone[:, 1].mean() < place[1][1]  # spine behind the liver
        middle = data[12:-12, 12:-12]
        assert (middle[..., -2:] < -700).mean() > (middle[..., :2] < -700).mean()
    assert seen == set(codes)


def test_attenuation_is_that_of_the_tissue():
    settings = AbdomenPhantom(pixels=96, noise_hu=(4.0, 4.0))
    ranges = {True: (85, 145), False: (35, 80)}
    for number, contrast in ((1, True), (2, False)):
        patient = make_abdomen(settings, number=number, contrast=contrast)
        image = patient.image

        def inside(name, depth, patient=patient, image=image):
            organ = patient.organs[name]
            return float(np.median(image[organ.box][organ.distance < -depth]))

        low, high = ranges[contrast]
        assert low < inside("liver", 6) < high
        assert low - 15 < inside("spleen", 6) < high
        assert abs(inside("liver", 6) - inside("spleen", 6)) < 40
        assert inside("gallbladder", 3) < 45
        if contrast:
            assert inside("left kidney", 2) > inside("liver", 6) + 20
            assert inside("aorta", 3) > inside("liver", 6)
        assert image.min() == -1024
        assert (image > 200).mean() > 0.003  # bone
        fat, lung = (
            ((image > -140) & (image < -60)).mean(),
            ((image > -900) & (image < -700)).mean(),
        )
        assert fat > 0.05
        assert lung > 0.01


def test_sizes_are_those_of_the_organs():
    """The means over patients lie near FLARE21's medians: 1505, 354, 211 and 78 mL."""
    volumes = []
    for number in range(1, 9):
        settings = AbdomenPhantom(pixels=64, slices_mm=(6.0,), coverage_mm=(240.0, 240.0))
        patient = make_abdomen(settings, number=number)
        voxel = np.prod(patient.annotation.spacing) / 1000
        volumes.append({n: (o.distance < 0).sum() * voxel for n, o in patient.organs.items()})
        assert min(volumes[-1].values()) > 0.5
    mean = {name: np.mean([v[name] for v in volumes]) for name in ORGANS}
    assert 1150 < mean["liver"] < 1850
    assert 280 < mean["left kidney"] + mean["right kidney"] < 440
    assert 140 < mean["spleen"] < 270
    assert 55 < mean["pancreas"] < 105
    assert 1.5 < mean["left adrenal"] < 8


def test_mean_shapes_do_not_overlap(coarse_abdomen):
    patient = make_abdomen(coarse_abdomen, number=2)
    taken = np.zeros(patient.image.shape, dtype=int)
    for organ in patient.organs.values():
        taken[organ.box] += organ.distance < 0
    assert taken.max() == 1
    assert list(patient.organs) == list(ORGANS)


def test_tubes_are_labelled_on_part_of_the_slices(coarse_abdomen):
    """Labels and posterior have them there alone; the image has them everywhere."""
    whole, part = (
        make_abdomen(coarse_abdomen, number=1, part_of_tubes=cut) for cut in (False, True)
    )
    np.testing.assert_array_equal(whole.image, part.image)
    spans = {}
    for name, case in (("whole", whole.annotation), ("part", part.annotation)):
        aorta = next(layer for layer in case.layers if layer.label == 5)
        spans[name] = aorta.box[2].stop - aorta.box[2].start
        liver = next(layer for layer in case.layers if layer.label == 1)
        spans[f"liver {name}"] = liver.box[2].stop - liver.box[2].start
    assert spans["part"] < 0.92 * spans["whole"]
    assert spans["liver part"] == spans["liver whole"]


def test_files_do_not_depend_on_the_workers(root, coarse_abdomen, tmp_path):
    write(tmp_path / "two", coarse_abdomen, workers=2)
    assert files(root) == files(tmp_path / "two")
    _, differ, odd = filecmp.cmpfiles(root, tmp_path / "two", files(root), shallow=False)
    assert (differ, odd) == ([], [])


def test_image_shows_the_mean_shape_and_nothing_of_the_annotator(coarse_abdomen):
    other = dataclasses.replace(coarse_abdomen, sigma_scale=2.0, bias_share=0.9)
    first, second = (make_abdomen(s, number=3) for s in (coarse_abdomen, other))
    np.testing.assert_array_equal(first.image, second.image)


def test_default_is_small(tmp_path):
    """A patient is 1.1 MB on disk, and every default patient has a body in the picture."""
    root = write(tmp_path / "flare", None, patients={"train": 1, "val": 1, "test": 1})
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    assert size < 3 * 1.6e6
    for path in root.rglob("TrainingImg/*.nii.gz"):
        assert sorted(load(path).shape)[1:] == [128, 128]
    full = AbdomenPhantom.full_size(release="2022")
    assert (full.pixels, full.release) == (512, "2022")


def test_other_settings_are_refused(root, coarse_abdomen):
    write(root, coarse_abdomen)  # is there, and is left alone
    with pytest.raises(ValueError, match="other pixels"):
        write(root, dataclasses.replace(coarse_abdomen, pixels=64))


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"release": "2020"}, "release must be one of 2021, 2022, 1k, got '2020'"),
        ({"folders": "mine"}, "folders must be one of original, nnunet, got 'mine'"),
        ({"pixels": 8}, "pixels must be >= 32, got 8"),
        ({"sigma_scale": 0.0}, "sigma_scale must be > 0, got 0.0"),
        ({"tube_fraction": -0.1}, r"tube_fraction must be in \[0, 1\], got -0.1"),
        ({"noise_hu": (9.0, 3.0)}, "noise_hu must be"),
        ({"slices_mm": ()}, "slices_mm must be positive"),
        ({"orientations": ("LPX",)}, "orientations must be axis codes such as LPS"),
        ({"orientations": ("LRS",)}, "orientations must be axis codes such as LPS"),
    ],
)
def test_settings_are_checked(setting, text):
    with pytest.raises(ValueError, match=text):
        AbdomenPhantom(**setting)
