from pathlib import Path

import numpy as np
import pytest
import yaml

from datamodules.phantom import make_patient
from datamodules.phantom.anatomy import GROUPS, draw_anatomy
from datamodules.phantom.annotator import posterior
from datamodules.phantom.heart import HeartModel
from datamodules.phantom.random_field import stream
from datamodules.phantom.settings import CardiacPhantom


def anatomy(group, number, settings=None):
    rng = stream(0, number, "anatomy")
    return draw_anatomy(settings or CardiacPhantom(), number=number, group=group, rng=rng)


def heart_model(group, number, settings=None):
    return HeartModel(anatomy(group, number, settings), stream(0, number, "heart"))


def voxel_volumes(model, frame):
    """Volumes of RV, MYO and LV in mL by counting 1.5 mm pixels, levels 2 mm apart."""
    side = np.arange(-130, 80, 1.5)
    z = np.arange(model.left[frame].valve + 1, model.apex + 2, 2)
    heart = model(frame, z)
    endo, epi, right = (
        s.signed_distance(side, side) < 0 for s in (heart.endo, heart.epi, heart.right)
    )
    return [part.sum() * 1.5 * 1.5 * 2 / 1000 for part in (right & ~epi, epi & ~endo, endo)]


@pytest.mark.parametrize("group", GROUPS)
def test_volumes_are_those_of_the_group(group):
    """The shapes meet the drawn volumes, and these are the group's."""
    model = heart_model(group, 7)
    facts, anatomy = GROUPS[group], model.anatomy
    ed, es = (voxel_volumes(model, frame) for frame in ("ED", "ES"))
    for found, frame in ((ed, "ED"), (es, "ES")):
        assert found[2] == pytest.approx(anatomy.lv_volume[frame], rel=0.02, abs=1)
        assert found[0] == pytest.approx(anatomy.rv_volume[frame], rel=0.05)
    assert es[1] == pytest.approx(ed[1], rel=0.02)  # muscle does not shrink
    assert 50 < ed[1] < 260
    assert facts.lv_edv.low * 0.98 < ed[2] < facts.lv_edv.high * 1.02
    assert facts.lv_ef.low - 0.02 < 1 - es[2] / ed[2] < facts.lv_ef.high + 0.02
    assert facts.rv_ef.low - 0.05 < 1 - es[0] / ed[0] < facts.rv_ef.high + 0.05


@pytest.mark.parametrize("number", [1, 2, 3])
def test_walls(number):
    """Thickness at mid-level: the diagnosis shows, and healthy walls thicken in systole."""

    def walls(group):
        model = heart_model(group, number)
        found = []
        for frame in ("ED", "ES"):
            left = model.left[frame]
            z = left.valve + np.linspace(0.15, 0.7, 12) * (model.apex - left.valve)
            endo, epi = left.radii(z)
            found.append(epi - endo)
        return found

    ed, es = walls("NOR")
    assert 5 < ed.min() < ed.max() < 12.5
    assert 1.25 < es.mean() / ed.mean() < 2.0
    assert walls("HCM")[0].max() > 15
    thin = walls("MINF")[0].min()
    assert 2.5 <= thin < 6.5
    assert 6 < walls("DCM")[0].mean() < 10


def test_right_ventricle_ends_before_the_apex(coarse):
    patient = make_patient(coarse, number=1, group="NOR")
    endo, epi, right = (d < 0 for d in patient.annotations["ED"].distance)
    muscle = np.flatnonzero((epi & ~endo).any(axis=(0, 1)))
    cavity = np.flatnonzero((right & ~epi).any(axis=(0, 1)))
    assert 1 <= muscle[-1] - cavity[-1] <= 3


def test_one_slice_lies_at_the_valve_plane():
    settings = CardiacPhantom()
    for number, group in enumerate(GROUPS):
        model = heart_model(group, number, settings)
        anatomy = model.anatomy
        for frame in ("ED", "ES"):
            gap = np.asarray(anatomy.slices) - anatomy.valve[frame]
            assert abs(gap[anatomy.basal[frame]]) <= 0.15 * anatomy.spacing[2] + 1e-6
            assert np.abs(np.delete(gap, anatomy.basal[frame])).min() > 0.8 * anatomy.spacing[2]
        assert anatomy.valve["ES"] >= 0


def test_images_are_larger_and_smaller_than_the_quick_samples():
    """As in real stacks, so that evaluation has slices to cut and slices to pad."""
    config = yaml.safe_load(Path("experiments/configs/data/acdc.quick.yaml").read_text())
    (side, _) = config["data"]["init_args"]["patch_size"]
    sizes = np.array([anatomy("NOR", n).shape[:2] for n in range(1, 41)])
    smaller = (sizes < side).any(axis=1).mean()
    assert 0.05 < smaller < 0.3
    assert (sizes > side).all(axis=1).mean() > 0.6
    assert (sizes.max(axis=1) > 1.5 * side).mean() > 0.1
    assert len(np.unique(sizes, axis=0)) > 30


@pytest.mark.parametrize("group", ["DCM", "RV"])
def test_the_smallest_image_holds_the_largest_heart(group):
    least, _ = CardiacPhantom().field_of_view_mm
    settings = CardiacPhantom(field_of_view_mm=(least, least), pixel_mm=(2.5, 2.5))
    for number in (1, 2):
        known = posterior(make_patient(settings, number=number, group=group).annotations["ED"])
        border = [known[1:, [0, -1]].max(), known[1:, :, [0, -1]].max()]
        assert max(border) < 1e-3, number
