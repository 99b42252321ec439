"""The posterior is exact: on paper, and against hundreds of annotators at every voxel."""

import dataclasses

import numpy as np
import pytest

from datamodules.phantom import Annotation, Patient, acdc, brats, draw_labels, flare, posterior
from datamodules.phantom.posterior import Layer, gaussian_field
from tests.datamodules.phantom.conftest import PHANTOMS, SETTINGS

WHOLE = (slice(0, 1), slice(0, 1), slice(0, 1))


def voxel(*layers, num_classes=4, outlined=None):
    """A case of one voxel."""
    outlined = None if outlined is None else np.array([outlined], dtype=np.float32)
    spacing, length = (1.0, 1.0, 1.0), (4.0, 4.0, 4.0)
    return Annotation(layers, (1, 1, 1), spacing, num_classes, length, 0.4, outlined)


def layer(label, distance, sigma=1.0, chance=1.0, over=None):
    level = np.full((1, 1, 1), distance, dtype=np.float32)
    return Layer(label, level, WHOLE, sigma, chance, over)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        # Three touching organs, on the surface of each: the last has one half, and so on.
        (voxel(layer(1, 0), layer(2, 0), layer(3, 0)), [0.125, 0.125, 0.25, 0.5]),
        # One sd outside: Phi(-1); twice the sd at twice the distance is the same.
        (voxel(layer(1, 1), num_classes=2), [0.8413447, 0.1586553]),
        (voxel(layer(1, 2, sigma=2), num_classes=2), [0.8413447, 0.1586553]),
        # Two kidneys, one label: 1 - (1 - q)(1 - q) of either.
        (voxel(layer(2, 0), layer(2, 0), num_classes=3), [0.25, 0, 0.75]),
        # The rim takes from the core alone, and what it takes is q_T q_E.
        (
            voxel(layer(2, -50), layer(1, 0), layer(3, -1, over=1)),
            [0, 0.5 * 0.1586553, 0.5, 0.5 * 0.8413447],
        ),
        # A structure, or a slice, that may be left out as a whole.
        (voxel(layer(1, -50, chance=0.3), num_classes=2), [0.7, 0.3]),
        (voxel(layer(1, 0), layer(2, 0), num_classes=3, outlined=0.4), [0.7, 0.1, 0.2]),
    ],
)
def test_posterior_on_paper(case, expected):
    np.testing.assert_allclose(posterior(case).ravel(), expected, atol=1e-6)


def heart():
    """The systolic frame about the slice that may be left out."""
    settings = PHANTOMS["acdc"].settled(SETTINGS["acdc"])
    anatomy = acdc.draw_anatomy(Patient(1), settings, 0)
    model = acdc.Heart(anatomy, np.random.default_rng(0))
    scene = acdc.draw_scene(anatomy, settings, np.random.default_rng(0))
    case = acdc.annotate(model, scene, "ES", settings)
    assert (case.outlined == acdc.BASAL_PI).sum() == 1
    assert (case.outlined == 0).sum() == anatomy.basal["ES"] > 0
    return case


def tumor():
    """A tumor with all five classes, and a satellite that may be left out."""
    settings = dataclasses.replace(SETTINGS["brats"], release="2024")
    patient = Patient(1, quirks=frozenset({"satellite", "cavity"}))
    _, case, growth = brats.make_case(patient, settings)
    assert growth.satellite is not None
    return case


def organs():
    patient = Patient(1, quirks=frozenset({"part of tubes"}))
    return flare.make_case(patient, SETTINGS["flare"])[1]


DRAWS = 300


@pytest.fixture(scope="module")
def cases():
    """A case of each dataset, and how often 300 annotators gave each class to each voxel."""
    habits = dataclasses.replace(heart(), bias_share=0.0)
    found = {"acdc": heart(), "no habits": habits, "brats": tumor(), "flare": organs()}
    return {name: (case, frequencies(case)) for name, case in found.items()}


def frequencies(case):
    rng = np.random.default_rng(2)
    counts = np.zeros((case.num_classes, *case.shape), dtype=np.int16)
    classes = np.arange(case.num_classes)[:, None, None, None]
    for _ in range(DRAWS):
        counts += draw_labels(case, rng) == classes
    return counts


def without_coins(case, *volumes):
    """The volumes without the slice in doubt, whose voxels all share one coin."""
    keep = slice(None) if case.outlined is None else case.outlined != acdc.BASAL_PI
    return [volume[..., keep] for volume in volumes]


def errors(case, counts):
    """Deviations from the posterior in standard errors, where it is neither 0 nor 1."""
    probs, counts = without_coins(case, posterior(case).astype(np.float64), counts)
    unsure = (probs > 0.02) & (probs < 0.98)
    assert all(unsure[k].any() for k in range(case.num_classes))
    probs, counts = probs[unsure], counts[unsure]
    return (counts - DRAWS * probs) / np.sqrt(DRAWS * probs * (1 - probs))


@pytest.mark.parametrize("name", ["acdc", "no habits", "brats", "flare"])
def test_frequencies_of_labels_are_the_posterior(name, cases):
    """Each voxel's frequency is its probability, within Monte-Carlo error."""
    case, counts = cases[name]
    probs = posterior(case).astype(np.float64)
    np.testing.assert_allclose(probs.sum(axis=0), 1, atol=1e-5)
    error = errors(case, counts)
    assert error.size > 1000
    assert np.abs(error).max() < 5.5
    # The voxels of a structure share its bias, and those of a satellite one coin.
    assert np.mean(error**2) == pytest.approx(1, abs=0.35)
    assert np.abs(counts / DRAWS - probs).max() < 4.5 * 0.5 / np.sqrt(DRAWS)
    sure = (probs == 0) | (probs == 1)
    assert np.array_equal(counts[sure], DRAWS * probs[sure])


def test_a_wrong_posterior_would_be_noticed(cases):
    """The test above has teeth: a sd that is 30 % off shows in 300 draws."""
    case, counts = cases["brats"]
    wrong = [dataclasses.replace(row, sigma_mm=1.3 * row.sigma_mm) for row in case.layers]
    assert np.abs(errors(dataclasses.replace(case, layers=wrong), counts)).max() > 5.5


@pytest.mark.parametrize("name", ["acdc", "brats", "flare"])
def test_the_posterior_is_calibrated(name, cases):
    """Over draws, the top label is right as often as its probability."""
    case, counts = cases[name]
    probs, counts = without_coins(case, posterior(case), counts)
    top = probs.max(axis=0)
    right = np.take_along_axis(counts, probs.argmax(axis=0)[None], 0)[0] / DRAWS
    for low in (0.55, 0.7, 0.85):
        part = (top > low) & (top <= low + 0.15) & (top < 0.999)
        assert part.sum() > 50
        assert abs(top[part].mean() - right[part].mean()) < 0.02


def test_enhancing_tumor_lies_in_the_core(cases):
    """Drawn over the core alone: without the core nothing is enhancing."""
    case, _ = cases["brats"]
    rest = [row for row in case.layers if row.label not in (brats.NECROSIS, brats.CAVITY)]
    without = dataclasses.replace(case, layers=rest)
    rng = np.random.default_rng(0)
    assert (draw_labels(case, rng) == brats.ENHANCING).any()
    assert not (draw_labels(without, rng) == brats.ENHANCING).any()
    assert posterior(without)[brats.ENHANCING].max() == 0


def test_gaussian_field_has_its_covariance():
    """Every pair of voxels, over 3000 draws: within five standard errors of the formula."""
    shape, spacing, length = (5, 4, 3), (1.5, 2.0, 3.0), (3.0, 4.0, 2.5)
    rng = np.random.default_rng(0)
    draws = np.stack([gaussian_field(shape, spacing, length, rng).ravel() for _ in range(3000)])
    assert draws.dtype == np.float32
    place = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    gap = (place[:, None] - place[None]) * np.array(spacing) / np.array(length)
    expected = np.exp(-0.5 * (gap**2).sum(-1))
    found = draws.T @ draws / len(draws)
    error = np.sqrt((1 + expected**2) / len(draws))
    assert (np.abs(found - expected) / error).max() < 5
    assert np.abs(draws.mean(axis=0)).max() < 5 / np.sqrt(len(draws))
