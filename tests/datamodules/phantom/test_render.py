import dataclasses

import numpy as np
import pytest

from datamodules.phantom import CardiacPhantom, make_patient


def test_image_shows_the_mean_shape_and_nothing_of_the_annotator():
    """Another annotator, the same scan."""
    settings = CardiacPhantom(pixel_mm=(2.0, 2.1), fine_fraction=0)
    other = dataclasses.replace(settings, sigma_mm=2.0, bias_mm=1.0, basal_pi=0.1)
    first, second = (make_patient(s, number=3, group="NOR") for s in (settings, other))
    for frame in ("ED", "ES"):
        np.testing.assert_array_equal(first.images[frame], second.images[frame])


@pytest.mark.parametrize("group", ["NOR", "HCM"])
def test_contrast_and_papillary_muscles(group):
    settings = CardiacPhantom(bias_field=(0, 0), slice_drift=0, fine_fraction=0)
    patient = make_patient(settings, number=4, group=group)
    image, case = patient.images["ED"], patient.annotations["ED"]
    middle = slice(case.outlined.argmax() + 2, -3)
    endo, epi, right = case.distance[..., middle]
    image = image[..., middle]
    blood = np.median(image[endo < -4])
    muscle = np.median(image[(endo > 2.5) & (epi < -2.5)])
    assert 2.8 < blood / muscle < 4.2
    assert np.median(image[right < -5]) > 0.75 * blood
    dark = image[endo < -3] < 0.55 * blood
    assert 0.001 < dark.mean() < 0.2


def test_frames_share_the_surroundings():
    patient = make_patient(CardiacPhantom(noise=(0, 0)), number=5, group="DCM")
    ed, es = patient.images["ED"], patient.images["ES"]
    far = np.minimum(patient.annotations["ED"].distance.min(axis=0), 99) > 45
    assert far.mean() > 0.02
    assert np.corrcoef(ed[far], es[far])[0, 1] > 0.98
