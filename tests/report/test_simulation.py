"""Error rates in worlds of known truth; docs/statistics.md has the whole table."""

import numpy as np
import pytest

from experiments.benchmarks.statistics import (
    WORLDS,
    crossed_coverage,
    crossed_rejections,
    family_rejections,
    network_coverage,
    pooled_error_rejections,
    signs_rejections,
)

TRIALS = 1000
ERROR = 2 * np.sqrt(0.05 * 0.95 / TRIALS)
"""Two Monte-Carlo standard errors of a rate of 5 % over the trials."""
NORMAL = [world for name, world in WORLDS.items() if name != "skewed patients"]
SIZES = [(3, 10), (3, 30), (5, 10), (5, 30)]
exactly = pytest.mark.parametrize("size", [(3, 30), (5, 10), (5, 30)])


def test_a_few_trials_of_the_crossed_test():
    assert crossed_rejections(WORLDS["seeds as patients"], 3, 10, 200) < 0.05 + 2 * 0.0154
    assert crossed_coverage(WORLDS["patients differ most"], 5, 10, 200) > 0.95 - 2 * 0.0154


def test_signs_alone_take_another_seed_for_another_loss():
    assert signs_rejections(WORLDS["seeds differ most"], 1, 30, 100) > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_equal_losses_are_found_different_no_more_often_than_the_level_says(world, size):
    assert crossed_rejections(world, *size, TRIALS) < 0.05 + ERROR


@pytest.mark.slow
@exactly
def test_where_patients_differ_most_the_level_is_exact(size):
    rate = crossed_rejections(WORLDS["patients differ most"], *size, TRIALS)
    assert abs(rate - 0.05) < ERROR


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_five_equal_losses_are_no_more_often_told_apart(world):
    assert family_rejections(world, 3, 10, TRIALS) < 0.05 + ERROR


@pytest.mark.slow
@pytest.mark.parametrize("patients", [10, 30])
@pytest.mark.parametrize("world", NORMAL)
def test_the_interval_of_a_loss_of_five_seeds_holds_its_mean(world, patients):
    assert crossed_coverage(world, 5, patients, TRIALS) > 0.95 - ERROR


@pytest.mark.slow
@pytest.mark.parametrize("patients", [10, 30])
@pytest.mark.parametrize("world", NORMAL)
def test_the_interval_over_patients_holds_the_networks_mean(world, patients):
    assert network_coverage(world, 5, patients, TRIALS) > 0.95 - ERROR


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 0.05])
@pytest.mark.parametrize("size", [(3, 10), (3, 30), (5, 30)])
def test_pooled_errors_of_equal_losses_are_told_apart_no_more_often(size, spread):
    assert pooled_error_rejections(*size, TRIALS, spread=spread) < 0.05 + ERROR
