import dataclasses

import numpy as np
import pytest

from datamodules.phantom.brats_patient import make_case
from datamodules.phantom.flare_patient import make_abdomen
from datamodules.phantom.layers import Annotation, Layer, draw_labels, posterior

WHOLE = (slice(0, 1), slice(0, 1), slice(0, 1))


def voxel(*layers, num_classes=4):
    """A case of one voxel."""
    return Annotation(layers, (1, 1, 1), (1.0, 1.0, 1.0), num_classes, (4.0, 4.0, 4.0), 0.4)


def layer(label, distance, sigma=1.0, chance=1.0, over=None):
    level = np.full((1, 1, 1), distance, dtype=np.float32)
    return Layer(label, level, WHOLE, sigma, chance, over)


def test_posterior_on_paper():
    """Three touching organs, on the surface of each: the last has one half, and so on."""
    found = posterior(voxel(layer(1, 0), layer(2, 0), layer(3, 0))).ravel()
    np.testing.assert_allclose(found, [0.125, 0.125, 0.25, 0.5], atol=1e-6)
    # One sd outside: Phi(-1); twice the sd at twice the distance is the same.
    for distance, sigma in ((1.0, 1.0), (2.0, 2.0)):
        found = posterior(voxel(layer(1, distance, sigma), num_classes=2)).ravel()
        np.testing.assert_allclose(found, [0.8413447, 0.1586553], atol=1e-6)


def test_one_label_in_two_layers_on_paper():
    """Two kidneys, one label: 1 - (1 - q)(1 - q) of either."""
    found = posterior(voxel(layer(2, 0), layer(2, 0), num_classes=3)).ravel()
    np.testing.assert_allclose(found, [0.25, 0, 0.75], atol=1e-6)


def test_painting_over_one_label_on_paper():
    """The rim takes from the core alone, and what it takes is q_T q_E."""
    tumour = layer(2, -50), layer(1, 0), layer(3, -1, over=1)
    found = posterior(voxel(*tumour)).ravel()
    np.testing.assert_allclose(found, [0, 0.5 * 0.1586553, 0.5, 0.5 * 0.8413447], atol=1e-6)


def test_a_chance_scales_on_paper():
    found = posterior(voxel(layer(1, -50, chance=0.3), num_classes=2)).ravel()
    np.testing.assert_allclose(found, [0.7, 0.3], atol=1e-6)


def tumour(coarse_brain):
    settings = dataclasses.replace(coarse_brain, release="2024")
    case = make_case(settings, number=1, kind="ring", satellite=True, cavity=True)
    assert case.growth.satellite is not None
    return case.annotation


def organs(coarse_abdomen):
    return make_abdomen(coarse_abdomen, number=1, part_of_tubes=True).annotation


@pytest.mark.parametrize("bias", [0.0, 0.5])
@pytest.mark.parametrize("dataset", ["brats", "flare"])
def test_draws_have_the_posterior(dataset, bias, coarse_brain, coarse_abdomen):
    """300 annotators: each voxel's frequency is its probability, within Monte-Carlo error."""
    case = tumour(coarse_brain) if dataset == "brats" else organs(coarse_abdomen)
    case = dataclasses.replace(case, bias_share=bias)
    probs = posterior(case).astype(np.float64)
    np.testing.assert_allclose(probs.sum(axis=0), 1, atol=1e-5)
    rng, n = np.random.default_rng(2), 300
    counts = np.zeros(probs.shape)
    for _ in range(n):
        labels = draw_labels(case, rng)
        counts += labels == np.arange(case.num_classes)[:, None, None, None]
    z = (counts - n * probs) / np.sqrt(n * np.clip(probs * (1 - probs), 1e-9, None))
    unsure = (probs > 0.02) & (probs < 0.98)
    assert unsure.sum() > 1500
    assert all(unsure[k].any() for k in range(case.num_classes))
    assert np.abs(z[unsure]).max() < 5.5
    # The voxels of a structure share its bias, and those of a satellite one coin.
    assert np.mean(z[unsure] ** 2) == pytest.approx(1, abs=0.35 if dataset == "brats" else 0.2)
    sure = (probs == 0) | (probs == 1)
    assert np.array_equal(counts[sure], n * probs[sure])


def test_a_wrong_posterior_would_be_noticed(coarse_brain):
    """The test above has teeth: a sd that is 30 % off shows in 300 draws."""
    case = tumour(coarse_brain)
    wrong = [dataclasses.replace(layer, sigma_mm=1.3 * layer.sigma_mm) for layer in case.layers]
    probs = posterior(dataclasses.replace(case, layers=wrong)).astype(np.float64)
    rng, n = np.random.default_rng(2), 300
    counts = np.zeros(probs.shape)
    for _ in range(n):
        counts += draw_labels(case, rng) == np.arange(case.num_classes)[:, None, None, None]
    z = (counts - n * probs) / np.sqrt(n * np.clip(probs * (1 - probs), 1e-9, None))
    assert np.abs(z[(probs > 0.02) & (probs < 0.98)]).max() > 5.5


def test_enhancing_tumour_lies_in_the_core(coarse_brain):
    """Drawn over the core alone: without the core nothing is enhancing."""
    case = tumour(coarse_brain)
    without = dataclasses.replace(
        case, layers=[layer for layer in case.layers if layer.label not in (1, 4)]
    )
    rng = np.random.default_rng(0)
    assert (draw_labels(case, rng) == 3).any()
    assert not (draw_labels(without, rng) == 3).any()
    assert posterior(without)[3].max() == 0


def test_the_oracle_is_calibrated(coarse_brain, coarse_abdomen):
    """Over draws and patients the oracle is right as often as it says, and where it says so."""
    for make in (
        lambda k: make_case(coarse_brain, number=k, kind="ring").annotation,
        lambda k: make_abdomen(coarse_abdomen, number=k).annotation,
    ):
        confidence, right = [], []
        for number in range(1, 6):
            case = make(number)
            probs = posterior(case)
            unsure = probs.max(axis=0) < 0.999
            rng = np.random.default_rng(number)
            for _ in range(20):
                labels = draw_labels(case, rng)
                confidence.append(probs.max(axis=0)[unsure])
                right.append((probs.argmax(axis=0) == labels)[unsure])
        confidence, right = np.concatenate(confidence), np.concatenate(right)
        for low in (0.4, 0.55, 0.7, 0.85):
            part = (confidence > low) & (confidence <= low + 0.15)
            assert abs(confidence[part].mean() - right[part].mean()) < 0.025
