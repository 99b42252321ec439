"""ACDC's phantom: its layout and headers, its hearts, and the images' sizes."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from datamodules.phantom import ACDC, Patient, PhantomSettings, acdc, posterior
from datamodules.phantom.posterior import stream
from tests.datamodules.phantom.conftest import files

DEFAULT = ACDC.settled(PhantomSettings())
GROUPS = list(acdc.GROUPS)


def info(folder):
    return dict(line.split(": ") for line in (folder / "Info.cfg").read_text().splitlines())


def test_layout_is_that_of_acdc(roots):
    root = roots["acdc"]
    expected = ["phantom.json", "split.json"]
    late = 0
    for number in range(1, 5):
        name = f"patient{number:03d}"
        folder = f"database/{'testing' if number > 3 else 'training'}/{name}"
        facts = info(root / folder)
        assert list(facts) == ["ED", "ES", "Group", "Height", "NbFrame", "Weight"]
        assert 1 <= int(facts["ED"]) < int(facts["ES"]) <= int(facts["NbFrame"])
        assert facts["Group"] == GROUPS[number - 1]
        assert 45 <= float(facts["Weight"]) <= 130
        late += facts["ED"] != "1"
        expected.append(f"{folder}/Info.cfg")
        for key in ("ED", "ES"):
            stem = f"{name}_frame{int(facts[key]):02d}"
            expected += [f"{folder}/{stem}.nii.gz", f"{folder}/{stem}_gt.nii.gz"]
            expected.append(f"posterior/{name}/{stem}.npz")
    assert files(root) == sorted(expected)
    assert late == 1  # a quarter of four patients


def test_headers(roots):
    """Origin 0, x and y reversed; some sforms have unit scales, no qform and no pixdim has."""
    faulty = set()
    for path in sorted(roots["acdc"].rglob("*.nii.gz")):
        header = nib.load(path).header
        zooms = np.array(header.get_zooms())
        assert 2 * acdc.PIXEL_MM[0] <= zooms[0] == zooms[1] <= 2 * acdc.PIXEL_MM[1]
        assert zooms[2] in (*acdc.DISTANCES_MM, *np.arange(5, 7.5, 0.5))
        true = np.diag([*(zooms * [-1, -1, 1]), 1])
        np.testing.assert_allclose(header.get_qform(), true, atol=1e-5)
        assert int(header["qform_code"]) == int(header["sform_code"]) == 1
        if np.allclose(header.get_sform(), np.diag([-1, -1, 1, 1])):
            faulty.add(path.parent.name)
        else:
            np.testing.assert_allclose(header.get_sform(), header.get_qform(), atol=1e-5)
    assert len(faulty) == 1


def voxel_volumes(heart, frame):
    """Volumes of RV, MYO and LV in mL by counting 2 mm pixels, levels 2 mm apart."""
    x, z = np.arange(-130, 90, 2), np.arange(heart.anatomy.valve[frame] + 1, heart.anatomy.apex, 2)
    points = tuple(np.meshgrid(x, x, z, indexing="ij", sparse=True))
    endo, epi = (level < 0 for level in heart.left(points, frame))
    right = heart.right(points, frame, heart.scale[frame]) < 0
    return [part.sum() * 8 / 1000 for part in (right & ~epi, epi & ~endo, endo)]


@pytest.mark.parametrize("number", range(1, 6))
def test_volumes_are_those_of_the_group(number):
    """The shapes meet the drawn volumes but for the segment, and these are the group's."""
    anatomy = acdc.draw_anatomy(Patient(number), DEFAULT, 0)
    heart = acdc.Heart(anatomy, stream(0, number, "heart"))
    ed, es = (voxel_volumes(heart, frame) for frame in acdc.FRAMES)
    for found, frame in ((ed, "ED"), (es, "ES")):
        assert found[2] == pytest.approx(anatomy.lv_volume[frame], rel=0.15, abs=10)
        assert found[0] == pytest.approx(anatomy.rv_volume[frame], rel=0.05)
    assert es[1] == pytest.approx(ed[1], rel=0.05)  # muscle does not shrink
    assert 50 < ed[1] < 260
    (lv, lv_sd), (fraction, fraction_sd), *_ = acdc.GROUPS[GROUPS[number - 1]]
    assert abs(anatomy.lv_volume["ED"] - lv) <= 2 * lv_sd
    assert abs(1 - anatomy.lv_volume["ES"] / anatomy.lv_volume["ED"] - fraction) <= 2 * fraction_sd


def test_one_slice_lies_at_the_valve_plane():
    for number in range(1, 11):
        anatomy = acdc.draw_anatomy(Patient(number), DEFAULT, 0)
        for frame in acdc.FRAMES:
            gap = anatomy.slices - anatomy.valve[frame]
            assert abs(gap[anatomy.basal[frame]]) <= 0.15 * anatomy.spacing[2] + 1e-4
            assert np.abs(np.delete(gap, anatomy.basal[frame])).min() > 0.8 * anatomy.spacing[2]
        assert anatomy.valve["ES"] >= 0


def test_images_are_larger_and_smaller_than_the_quick_samples():
    """As in real stacks, so that evaluation has slices to cut and slices to pad."""
    config = yaml.safe_load(Path("experiments/configs/data/acdc.quick.yaml").read_text())
    (side, _) = config["data"]["init_args"]["sampling"]["patch_size"]
    anatomies = [acdc.draw_anatomy(Patient(n), DEFAULT, 0) for n in range(1, 61)]
    sizes = np.array([anatomy.shape[:2] for anatomy in anatomies])
    assert 0.05 < (sizes < side).any(axis=1).mean() < 0.3
    assert (sizes > side).all(axis=1).mean() > 0.6
    assert (sizes.max(axis=1) > 1.5 * side).mean() > 0.1
    extents = [n * a.spacing[0] for a in anatomies for n in a.shape[:2]]
    assert 170 < min(extents) < 200 < 290 < max(extents) <= 320


@pytest.mark.parametrize("number", [3, 5, 8, 10])
def test_the_smallest_image_contains_the_largest_heart(number, monkeypatch):
    monkeypatch.setattr(acdc, "FIELD_OF_VIEW_MM", (acdc.FIELD_OF_VIEW_MM[0],) * 2)
    patient = Patient(number, name="p")  # dilated, or with a large right ventricle
    scans, _ = acdc.draw(patient, ACDC.settled(PhantomSettings(coarsen=1.5)), 0)
    known = posterior(scans[0].annotation)
    assert max(known[1:, [0, -1]].max(), known[1:, :, [0, -1]].max()) < 1e-3


def test_blood_is_brighter_than_muscle():
    settings = PhantomSettings(noise_scale=0, coarsen=2)
    for number in (1, 4):
        scan = acdc.draw(Patient(number, name="p"), settings, 0)[0][0]
        (image,) = scan.images.values()
        _, muscle, blood = (
            np.median(image[probs > 0.95]) for probs in posterior(scan.annotation)[1:]
        )
        assert 2.2 < blood / muscle < 5
