import dataclasses

import numpy as np
import pytest

from datamodules.phantom import Annotation, CardiacPhantom, draw_labels, make_patient, posterior


def paper_case(distance, outlined=1.0):
    """A case of one voxel."""
    return Annotation(
        np.asarray(distance, dtype=np.float32).reshape(3, 1, 1, 1),
        np.array([outlined], dtype=np.float32),
        (1.5, 1.5, 8.0),
        CardiacPhantom(),
    )


def test_posterior_on_paper():
    """On all three surfaces at once each is inside with one half: 1/8, 1/8, 1/4, 1/2."""
    found = posterior(paper_case([0, 0, 0])).ravel()
    np.testing.assert_allclose(found, [0.125, 0.125, 0.25, 0.5], atol=1e-6)
    found = posterior(paper_case([0, 0, 0], outlined=0.4)).ravel()
    np.testing.assert_allclose(found, [0.6 + 0.05, 0.05, 0.1, 0.2], atol=1e-6)
    # One sd outside the endocardium, far inside the epicardium: Phi(-1) left cavity.
    found = posterior(paper_case([0.8, -50, 50])).ravel()
    np.testing.assert_allclose(found, [0, 0, 0.8413447, 0.1586553], atol=1e-6)


@pytest.fixture(scope="module")
def case(coarse):
    whole = make_patient(coarse, number=2, group="NOR").annotations["ES"]
    at_valve = whole.outlined.tolist().index(0.5)
    assert at_valve > 0
    keep = [at_valve - 1, at_valve, at_valve + 1, at_valve + 4]
    near = np.flatnonzero((whole.distance.min(axis=0) < 4).any(axis=(1, 2)))
    part = whole.distance[:, near[0] : near[-1] + 1][..., keep]
    return dataclasses.replace(whole, distance=part, outlined=whole.outlined[keep])


@pytest.mark.parametrize("bias", [0.0, 0.4])
def test_draws_have_the_posterior(case, bias):
    """400 annotators: each voxel's frequency is its probability, within Monte-Carlo error."""
    settings = dataclasses.replace(case.settings, bias_mm=bias)
    case = dataclasses.replace(case, settings=settings)
    rng, n = np.random.default_rng(1), 400
    probs = posterior(case).astype(np.float64)
    counts = np.zeros(probs.shape)
    drawn = 0
    for _ in range(n):
        labels = draw_labels(case, rng)
        drawn += bool(labels[..., case.outlined == 0.5].any())
        counts += labels == np.arange(4)[:, None, None, None]
    assert abs(drawn / n - 0.5) < 4 * 0.5 / np.sqrt(n)
    sure = case.outlined != 0.5  # in the slice in doubt all voxels share one coin
    z = (counts - n * probs) / np.sqrt(n * np.clip(probs * (1 - probs), 1e-9, None))
    unsure = (probs > 0.02) & (probs < 0.98)
    assert unsure[..., sure].sum() > 500
    assert np.abs(z[..., sure][unsure[..., sure]]).max() < 5.5
    # Voxels share the bias, so the mean square varies more the larger it is.
    assert np.mean(z[..., sure][unsure[..., sure]] ** 2) == pytest.approx(1, abs=0.1 + bias)
    gap = counts / n - probs
    assert np.abs(gap).max() < 4.5 * 0.5 / np.sqrt(n)
    assert np.abs(counts[..., case.outlined == 0][0] - n).max() == 0


def test_posterior_sums_to_one_and_is_calibrated(coarse):
    """Over draws and patients the oracle is right as often as it says, and where it says so."""
    confidence, right = [], []
    for number, group in enumerate(("NOR", "DCM", "HCM", "RV", "MINF"), start=1):
        patient = make_patient(coarse, number=number, group=group)
        for frame, case in patient.annotations.items():
            probs = posterior(case)
            np.testing.assert_allclose(probs.sum(axis=0), 1, atol=1e-6)
            unsure = probs.max(axis=0) < 0.999
            rng = np.random.default_rng([number, *frame.encode()])
            for _ in range(8):
                labels = draw_labels(case, rng)
                confidence.append(probs.max(axis=0)[unsure])
                right.append((probs.argmax(axis=0) == labels)[unsure])
    confidence, right = np.concatenate(confidence), np.concatenate(right)
    sure = confidence > 0.55  # leaves out the basal slice, one coin for thousands of voxels
    assert abs(confidence[sure].mean() - right[sure].mean()) < 0.004
    for low in (0.55, 0.7, 0.85):
        part = (confidence > low) & (confidence <= low + 0.15)
        assert abs(confidence[part].mean() - right[part].mean()) < 0.015
