"""Noise floor and debiased square against direct sums, simulation and published values."""

import math

import numpy as np
import pytest

from mbls.metrics.floor import binomial_deviation, debiased_square, expected_error_floor


@pytest.mark.parametrize("n", [1, 2, 7, 40])
@pytest.mark.parametrize("p", [0.0, 0.01, 0.3, 0.5, 0.99, 1.0])
def test_deviation_against_the_direct_sum(n, p):
    direct = sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) * abs(k / n - p) for k in range(n + 1))
    assert binomial_deviation(n, p) == pytest.approx(direct, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(("n", "p"), [(1e6, 0.3), (1e9, 0.5), (1e9, 0.999), (5e11, 0.9)])
def test_deviation_of_many_voxels_is_that_of_a_normal(n, p):
    normal = math.sqrt(2 * p * (1 - p) / (math.pi * n))
    assert binomial_deviation(n, p) == pytest.approx(normal, rel=1e-5)


def binned(confidence, hits, n_bins=15):
    index = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    return [np.bincount(index, w, n_bins) for w in (np.ones_like(confidence), hits, confidence)]


def test_floor_is_the_mean_error_of_a_calibrated_model():
    rng = np.random.default_rng(0)
    confidence = rng.beta(8, 1, 500)
    errors, squares = [], []
    for _ in range(2000):
        count, hits, summed = binned(confidence, rng.random(500) < confidence)
        errors.append(np.abs(hits - summed).sum() / 500)
        squares.append(debiased_square(count, hits, summed))
    floor = expected_error_floor(*binned(confidence, confidence))
    # Bins have unequal confidences: the floor is up to a per cent too high.
    assert np.mean(errors) == pytest.approx(float(floor), rel=0.015)
    assert abs(np.mean(squares)) < 4 * np.std(squares) / 2000**0.5
    assert np.min(squares) < 0  # it keeps its sign


def test_debiased_square_on_paper():
    # 4 voxels, 1 hit, mean confidence 0.75: gap 0.5, variance 0.25 * 0.75 / 3; and one lone voxel.
    value = debiased_square(np.array([4.0, 1.0]), np.array([1.0, 1.0]), np.array([3.0, 0.1]))
    assert value == pytest.approx(4 / 5 * (0.25 - 0.0625))


def test_empty_is_nan():
    empty = np.zeros((2, 15))
    assert np.isnan(debiased_square(empty, empty, empty)).all()
    assert np.isnan(expected_error_floor(empty, empty, empty)).all()
