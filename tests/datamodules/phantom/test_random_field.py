import numpy as np

from datamodules.phantom.random_field import gaussian_field


def test_covariance_is_the_closed_form():
    """Every pair of voxels, over 3000 draws: within five standard errors of the formula."""
    shape, spacing, length = (5, 4, 3), (1.5, 2.0, 3.0), (3.0, 4.0, 2.5)
    rng = np.random.default_rng(0)
    draws = np.stack([gaussian_field(shape, spacing, length, rng).ravel() for _ in range(3000)])
    place = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    gap = (place[:, None] - place[None]) * np.array(spacing) / np.array(length)
    expected = np.exp(-0.5 * (gap**2).sum(-1))
    found = draws.T @ draws / len(draws)
    error = np.sqrt((1 + expected**2) / len(draws))
    assert (np.abs(found - expected) / error).max() < 5
    assert np.abs(draws.mean(axis=0)).max() < 5 / np.sqrt(len(draws))


def test_one_seed_one_field():
    first, second = (
        gaussian_field((7, 6, 2), (1, 1, 8), (4, 4, 2), np.random.default_rng(3)) for _ in "ab"
    )
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, second)
