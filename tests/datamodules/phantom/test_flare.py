"""FLARE's phantom: the layout of each release, its headers, its organs and tubes."""

import dataclasses
import json

import nibabel as nib
import numpy as np
import pytest

from datamodules.phantom import FLARE, Patient, PhantomSettings, flare, load_posterior, posterior
from tests.datamodules.phantom.conftest import SETTINGS, files, write

NAMES = {
    "2021": [f"train_{n:03d}" for n in range(4)],
    "2022": [f"FLARE22_Tr_{n:04d}" for n in range(1, 5)],
    "1k": [f"Case_{n:05d}" for n in range(1, 5)],
}


def load(path):
    return np.asanyarray(nib.load(path).dataobj)


@pytest.mark.parametrize(
    ("release", "image", "label"),
    [
        ("2021", "FLARE21/TrainingImg/{}_0000.nii.gz", "FLARE21/TrainingMask/{}.nii.gz"),
        ("2021-nnunet", "FLARE21/imagesTr/{}.nii.gz", "FLARE21/labelsTr/{}.nii.gz"),
        (
            "2022",
            "FLARE22_LabeledCase50/images/{}_0000.nii.gz",
            "FLARE22_LabeledCase50/labels/{}.nii.gz",
        ),
        ("2022-nnunet", "FLARE22Train/imagesTr/{}_0000.nii.gz", "FLARE22Train/labelsTr/{}.nii.gz"),
        ("1k", "AbdomenCT-1K/imagesTr/{}_0000.nii.gz", "AbdomenCT-1K/labels/{}.nii.gz"),
    ],
)
def test_layouts(release, image, label, tmp_path):
    root = write(tmp_path / "flare", "flare", settings=PhantomSettings(release=release, coarsen=3))
    names = NAMES[release.removesuffix("-nnunet")]
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
    most = 13 if release.startswith("2022") else 4
    for name in names:
        values = load(root / label.format(name))
        assert {0, 1, 2, 3, 4} <= set(np.unique(values).tolist()) <= set(range(most + 1))
        probs = load_posterior(root / f"posterior/{name}/{name}.npz")
        assert probs.shape == (most + 1, *values.shape)


def test_headers_point_in_several_directions_and_anatomy_does_not(tmp_path, monkeypatch):
    """Reoriented, the liver is on the right, the spine at the back, the lungs at the top."""
    codes = ("LPS", "RAS", "IPL", "LAI")
    monkeypatch.setattr(flare, "ORIENTATIONS", codes)
    root = write(tmp_path / "flare", "flare")
    seen = set()
    for path in sorted(root.rglob("images/*.nii.gz")):
        name = path.name.removesuffix("_0000.nii.gz")
        image = nib.load(path)
        label = nib.load(root / "FLARE22_LabeledCase50" / "labels" / f"{name}.nii.gz")
        code = "".join(nib.aff2axcodes(image.affine))
        seen.add(code)
        zooms = dict(zip(code, image.header.get_zooms(), strict=True))
        assert {size for axis, size in zooms.items() if axis in "SI"} <= {10, 12.5}
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
        assert -1024 == data.min() < data.max() < 1500
    assert seen == set(codes)


def test_volumes_are_about_those_of_the_organs():
    """The means over patients lie near FLARE21's medians: 1505, 354, 211 and 78 mL."""
    settings = FLARE.settled(PhantomSettings(release="2022", coarsen=2))
    volumes = []
    for number in range(1, 9):
        _, case = flare.make_case(Patient(number), settings)
        volumes.append(posterior(case).sum(axis=(1, 2, 3)) * np.prod(case.spacing) / 1000)
        assert min(volumes[-1]) > 0.5
    mean = np.mean(volumes, axis=0)
    assert 1150 < mean[1] < 1850
    assert 280 < mean[2] + mean[13] < 440
    assert 140 < mean[3] < 270
    assert 55 < mean[4] < 105
    assert 1.5 < mean[8] < 8


def test_attenuation_is_that_of_the_tissue():
    settings = PhantomSettings(release="2022", coarsen=1.5, noise_scale=0.3)
    for quirks, low, high in ((frozenset(), 85, 145), (frozenset({"plain"}), 35, 80)):
        image, case = flare.make_case(Patient(1, quirks=quirks), settings)
        liver, kidney, spleen = (np.median(image[p > 0.99]) for p in posterior(case)[1:4])
        assert low < liver < high
        assert low - 15 < spleen < high
        assert (kidney > liver + 20) == (not quirks)
        assert (image > 200).mean() > 0.003  # bone
        assert ((image > -140) & (image < -60)).mean() > 0.05  # fat
        assert ((image > -900) & (image < -700)).mean() > 0.01  # lung


def test_tubes_are_labeled_on_part_of_the_slices():
    """Labels and posterior have them there alone; the image has them everywhere."""
    whole, part = (
        flare.make_case(Patient(1, quirks=frozenset(quirks)), SETTINGS["flare"])
        for quirks in ((), ("part of tubes",))
    )
    np.testing.assert_array_equal(whole[0], part[0])
    slices = {  # with aorta and with liver
        name: [(posterior(case)[k] > 0.5).any(axis=(0, 1)).sum() for k in (5, 1)]
        for name, (_, case) in (("whole", whole), ("part", part))
    }
    assert slices["part"][0] < 0.92 * slices["whole"][0]
    assert slices["part"][1] == slices["whole"][1]


def test_full_size():
    settings = dataclasses.replace(SETTINGS["flare"], full_size=True, coarsen=8)
    image, case = flare.make_case(Patient(1), settings)
    assert image.shape[:2] == (64, 64)
    assert case.spacing[2] in (8 * np.array(flare.FULL_SLICES_MM))
