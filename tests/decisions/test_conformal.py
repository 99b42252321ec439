"""Conformal quantiles, risk control and CRPS equal their definitions."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import beta, norm

from mbls.decisions.conformal import (
    conformal_quantile,
    controlled_place,
    crps,
    patients_needed,
    share_interval,
)


def by_definition(scores: np.ndarray, alpha: float) -> float:
    """The least value that (n + 1)(1 - alpha) of n + 1 scores do not exceed, one being infinite."""
    every = sorted([*scores.tolist(), np.inf])
    return next(q for q in every if sum(s <= q for s in every) >= (1 - alpha) * len(every) - 1e-9)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2, 0.3, 0.5])
@pytest.mark.parametrize("number", [1, 2, 4, 8, 9, 10, 18, 19, 20, 99, 100])
def test_the_quantile_is_that_of_the_textbook(number: int, alpha: float) -> None:
    scores = np.random.default_rng(number).normal(size=number) ** 2
    found = conformal_quantile(scores, alpha)
    assert found == by_definition(scores, alpha)
    assert np.isfinite(found) == (number >= patients_needed(alpha))


def test_the_quantile_on_paper() -> None:
    scores = np.array([3.0, 1.0, 4.0, 1.5, 9.0, 2.0, 6.0, 5.0, 3.5])
    assert conformal_quantile(scores, 0.1) == 9.0  # rank ceil(10 * 0.9) = 9
    assert conformal_quantile(scores, 0.25) == 6.0  # rank ceil(7.5) = 8
    assert conformal_quantile(scores[:8], 0.1) == np.inf  # rank 9 of 8
    assert conformal_quantile(np.array([]), 0.5) == np.inf
    assert [patients_needed(level) for level in (0.5, 0.3, 0.1, 0.05, 0.01)] == [1, 3, 9, 19, 99]


def test_a_new_score_is_covered_as_often_as_its_rank_says() -> None:
    """Each of n + 1 scores takes its turn as the new one: exactly rank of them are covered."""
    scores = np.random.default_rng(0).exponential(size=21)
    turns = [s <= conformal_quantile(np.delete(scores, k), 0.1) for k, s in enumerate(scores)]
    assert sum(turns) == 19  # ceil(21 * 0.9)


def test_risk_is_controlled_by_the_first_mask_that_may() -> None:
    losses = np.array([[1.0, 0.5, 0.2, 0.0], [1.0, 0.3, 0.0, 0.0], [0.8, 0.1, 0.1, 0.0]])
    bounds = [(2.8 + 1) / 4, (0.9 + 1) / 4, (0.3 + 1) / 4, 1 / 4]
    for k, (above, bound) in enumerate(pairwise(bounds), 1):
        assert controlled_place(losses, bound) == k
        assert controlled_place(losses, (above + bound) / 2) == k
    assert controlled_place(losses, 0.2) == 3  # below 1 / (n + 1): the last is all that is left
    assert controlled_place(np.empty((0, 4)), 0.5) == 3


def test_the_expected_loss_of_a_new_patient_is_below_the_level() -> None:
    """Each patient takes its turn: their mean loss is an expectation over exchangeable patients."""
    rng = np.random.default_rng(1)
    steps = np.linspace(0, 1, 40)
    for level in (0.1, 0.25):
        losses = np.clip(rng.uniform(0, 1, (60, 1)) - steps, 0, 1)
        places = [controlled_place(np.delete(losses, k, axis=0), level) for k in range(60)]
        risk = np.mean([losses[k, place] for k, place in enumerate(places)])
        assert level - 2 / 60 - 1 / 40 <= risk <= level


def test_share_interval_is_that_of_clopper_and_pearson() -> None:
    low, high = share_interval(7, 9)
    assert low == pytest.approx(beta.ppf(0.025, 7, 3))
    assert high == pytest.approx(beta.ppf(0.975, 8, 2))
    assert share_interval(0, 5)[0] == 0


def test_crps_is_the_integral_of_squared_differences() -> None:
    rng = np.random.default_rng(2)
    values, weights = rng.normal(size=7), rng.dirichlet(np.ones(7))
    for truth in (-3.0, 0.1, 4.0):
        x = np.linspace(-8, 8, 400_001)
        steps = np.cumsum(np.bincount(np.searchsorted(x, values), weights, minlength=len(x)))
        integral = np.sum((steps - (x >= truth)) ** 2) * (x[1] - x[0])
        assert crps(values, weights, truth) == pytest.approx(integral, abs=1e-3)
    assert crps(np.array([2.0]), np.array([1.0]), 5.0) == 3.0


def test_crps_of_many_draws_is_that_of_the_normal_distribution() -> None:
    values = norm.ppf((np.arange(4000) + 0.5) / 4000)
    z = 0.7
    exact = z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi)
    assert crps(values, np.full(4000, 1 / 4000), z) == pytest.approx(exact, abs=1e-3)
