"""How often an interval over patients covers the error of the population they come from.

Patients differ by a shift of their log-odds, so the voxels of one are correlated. The population's
pooled error is an integral over patients and known to any precision; each trial draws some patients
and their voxels and checks whether the interval covers it.
"""

import numpy as np
import pytest

from mbls.metrics.bootstrap import corrected, interval, patient_weights
from mbls.metrics.calibration import expected_error, signed_error

BINS, DRAWS, TRIALS = 15, 200, 200
CONFIDENCE = (np.arange(BINS) + 0.5) / BINS
MASS = np.array([1.0] * 14 + [20.0]) / 34  # most voxels are confident ones
ERROR = 3 * np.sqrt(0.95 * 0.05 / TRIALS)
"""Three standard errors of a coverage of 95 % over the trials."""


def shares(slope, shift):
    """The share of hits in each bin: over-confident for a slope below 1."""
    odds = slope * np.log(CONFIDENCE / (1 - CONFIDENCE)) + np.asarray(shift)[..., None]
    return 1 / (1 + np.exp(-odds))


def population(slope, spread):
    """Expected hits and confidences of each bin, as a table of one case."""
    points, weights = np.polynomial.hermite_e.hermegauss(61)
    share = (weights / weights.sum()) @ shares(slope, points * spread)
    return np.stack([MASS, MASS * share, MASS * CONFIDENCE])


def coverage(slope, spread, *, voxels, patients, error=expected_error):
    """Return how often the percentile and the corrected interval cover the population's error."""
    true = float(error(*population(slope, spread)))
    rng = np.random.default_rng(0)
    weights = patient_weights([str(n) for n in range(patients)], draws=DRAWS)
    covered = np.zeros(2)
    for _ in range(TRIALS):
        count = rng.multinomial(voxels, MASS, size=patients)
        hits = rng.binomial(count, shares(slope, rng.normal(0, spread, patients)))
        table = np.stack([count, hits, count * CONFIDENCE])
        value = float(error(*table.sum(1)))
        drawn = error(*(weights @ part for part in table))
        limits = (interval(drawn), corrected(value, drawn, patients)[1:])
        covered += [low <= true <= high for low, high in limits]
    return covered / TRIALS


WORLDS = [(0.6, 0.3), (0.85, 0.3), (0.95, 0.3), (0.85, 0.8), (1.0, 0.5)]
"""Slopes and spreads; the last model is off in single patients and nearly calibrated over all."""


@pytest.mark.parametrize("voxels", [1000, 20_000])
@pytest.mark.parametrize("patients", [10, 50])
@pytest.mark.parametrize("world", WORLDS)
def test_the_corrected_interval_covers_the_pooled_error(world, patients, voxels):
    _, covered = coverage(*world, voxels=voxels, patients=patients)
    assert covered > 0.9 - ERROR


@pytest.mark.parametrize("voxels", [1000, 20_000])
def test_the_percentile_interval_covers_a_large_error_of_many_patients(voxels):
    covered, _ = coverage(0.6, 0.3, voxels=voxels, patients=50)
    assert covered > 0.95 - ERROR


@pytest.mark.parametrize(("patients", "least"), [(10, 0.85), (50, 0.95 - ERROR)])
def test_the_percentile_interval_covers_a_signed_error(patients, least):
    covered, _ = coverage(0.85, 0.3, voxels=1000, patients=patients, error=signed_error)
    assert covered > least


def test_the_percentile_interval_lies_above_a_small_error_of_few_patients():
    percentile, better = coverage(1.0, 0.5, voxels=1000, patients=10)
    assert percentile < 0.1  # which is why the corrected one is shown too
    assert better > 0.9 - ERROR


def test_an_interval_per_case_is_that_of_measured_errors():
    """It covers the mean error of cases of this size, noise included, and not the true one."""
    rng = np.random.default_rng(1)

    def measured(patients):
        count = rng.multinomial(300, MASS, size=patients)
        share = shares(0.85, rng.normal(0, 0.3, patients))
        true = (MASS * np.abs(share - CONFIDENCE)).sum(1)
        hits = rng.binomial(count, share)
        return expected_error(count, hits, count * CONFIDENCE), true.mean()

    everyone, true = measured(50_000)
    weights = patient_weights([str(n) for n in range(50)], draws=DRAWS)
    covered = np.zeros(2)
    for _ in range(TRIALS):
        low, high = interval(weights @ measured(50)[0] / 50)
        covered += [low <= everyone.mean() <= high, low <= true <= high]
    assert covered[0] / TRIALS > 0.95 - ERROR
    assert covered[1] / TRIALS < 0.05
