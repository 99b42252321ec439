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


@pytest.fixture(scope="module")
def annotations():
    return {"acdc": heart(), "brats": tumor(), "flare": organs()}


def frequencies(case, draws):
    """How often each class was drawn at each voxel."""
    rng = np.random.default_rng(2)
    counts = np.zeros((case.num_classes, *case.shape))
    classes = np.arange(case.num_classes)[:, None, None, None]
    for _ in range(draws):
        counts += draw_labels(case, rng) == classes
    return counts


def errors(case, counts, draws):
    """Deviations from the posterior in standard errors, where it is neither 0 nor 1."""
    probs = posterior(case).astype(np.float64)
    if case.outlined is not None:  # in a slice in doubt all voxels share one coin
        probs, counts = (a[..., case.outlined != acdc.BASAL_PI] for a in (probs, counts))
    unsure = (probs > 0.02) & (probs < 0.98)
    assert all(unsure[k].any() for k in range(case.num_classes))
    error = (counts - draws * probs) / np.sqrt(draws * np.clip(probs * (1 - probs), 1e-9, None))
    return error[unsure]


@pytest.mark.parametrize("bias", [0.0, 0.5])
@pytest.mark.parametrize("dataset", ["acdc", "brats", "flare"])
def test_frequencies_of_labels_are_the_posterior(dataset, bias, annotations):
    """300 annotators: each voxel's frequency is its probability, within Monte-Carlo error."""
    case, n = dataclasses.replace(annotations[dataset], bias_share=bias), 300
    probs, counts = posterior(case).astype(np.float64), frequencies(case, n)
    np.testing.assert_allclose(probs.sum(axis=0), 1, atol=1e-5)
    error = errors(case, counts, n)
    assert error.size > 1000
    assert np.abs(error).max() < 5.5
    # The voxels of a structure share its bias, and those of a satellite one coin.
    assert np.mean(error**2) == pytest.approx(1, abs=0.35)
    assert np.abs(counts / n - probs).max() < 4.5 * 0.5 / np.sqrt(n)
    sure = (probs == 0) | (probs == 1)
    assert np.array_equal(counts[sure], n * probs[sure])


def test_a_wrong_posterior_would_be_noticed(annotations):
    """The test above has teeth: a sd that is 30 % off shows in 300 draws."""
    case, n = annotations["brats"], 300
    wrong = [dataclasses.replace(row, sigma_mm=1.3 * row.sigma_mm) for row in case.layers]
    error = errors(dataclasses.replace(case, layers=wrong), frequencies(case, n), n)
    assert np.abs(error).max() > 5.5


def test_enhancing_tumor_lies_in_the_core(annotations):
    """Drawn over the core alone: without the core nothing is enhancing."""
    case = annotations["brats"]
    rest = [row for row in case.layers if row.label not in (brats.NECROSIS, brats.CAVITY)]
    without = dataclasses.replace(case, layers=rest)
    rng = np.random.default_rng(0)
    assert (draw_labels(case, rng) == brats.ENHANCING).any()
    assert not (draw_labels(without, rng) == brats.ENHANCING).any()
    assert posterior(without)[brats.ENHANCING].max() == 0


def test_the_posterior_is_calibrated(annotations):
    """Over draws it is right as often as it says, and where it says so."""
    for case in annotations.values():
        probs = posterior(case)
        if case.outlined is not None:
            probs = probs[..., case.outlined != acdc.BASAL_PI]
        top = probs.max(axis=0)
        rng, right, n = np.random.default_rng(1), np.zeros(top.shape), 100
        for _ in range(n):
            labels = draw_labels(case, rng)
            if case.outlined is not None:
                labels = labels[..., case.outlined != acdc.BASAL_PI]
            right += (probs.argmax(axis=0) == labels) / n
        for low in (0.4, 0.55, 0.7, 0.85):
            part = (top > low) & (top <= low + 0.15) & (top < 0.999)
            assert abs(top[part].mean() - right[part].mean()) < 0.03 or not part.any()


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
