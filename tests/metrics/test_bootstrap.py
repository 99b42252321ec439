"""Intervals: patients are drawn whole, exactly, and cover what they should."""

import numpy as np
import pytest

from mbls.evaluation.protocols import PROTOCOLS, drawn_marginal_errors, protocol_entries
from mbls.metrics import CalibrationHistogram, estimate
from mbls.metrics.bootstrap import (
    drawn_values,
    exact_sums,
    interval,
    mean_of_draws,
    patient_weights,
)
from tests.evaluation.counted import scored


def test_cases_of_a_patient_are_drawn_together():
    patients = ["b", "a", "b", "c"]
    weights = patient_weights(patients, draws=500)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, [0, 1, 3]].sum(1) == 3).all()
    assert weights[:, 1].mean() == pytest.approx(1, abs=0.15)
    np.testing.assert_array_equal(weights, patient_weights(patients, draws=500))


def test_sums_are_exact_beyond_float64():
    values = np.array([[2**60 + 1, -(2**59) - 3], [7, 5]], dtype=np.int64)
    weights = np.array([[1.0, 2.0], [0.0, 3.0]])
    expected = [[float(2**60 + 15), float(-(2**59) + 7)], [21.0, 15.0]]
    assert exact_sums(weights, values).tolist() == expected


def chosen_cases(histogram, cases):
    chosen = CalibrationHistogram(3, unions=histogram.unions, num_cases=len(cases))
    for name in ("cells", "sums", "truth"):
        getattr(chosen, name).copy_(getattr(histogram, name)[cases])
    chosen.known += 1
    return chosen


@pytest.mark.parametrize("pooling", ["pooled", "per_case"])
@pytest.mark.parametrize("metric", ["ece", "cece", "mce", "brier", "nll", "true_ece", "ece/heart"])
def test_a_draw_is_the_metric_of_the_drawn_cases(pooling, metric):
    histogram, _ = scored()
    bins = histogram.bins()
    weights = np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0]])
    drawn = drawn_values(bins, [metric], weights, region="label", pooling=pooling)[metric]
    chosen = chosen_cases(histogram, [0, 0, 2])
    for value, source in zip(drawn, (histogram, chosen), strict=True):
        exact, _ = estimate(source.bins(), metric, region="label", pooling=pooling)
        assert value == pytest.approx(exact, rel=1e-9)


def test_the_micro_error_has_an_interval():
    histogram, dice = scored()
    bins, acl = histogram.bins(), PROTOCOLS[-1]
    weights = np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0]])
    expected = [
        drawn_marginal_errors(b, acl, np.ones((1, len(b.cells))))[0]
        for b in (bins, chosen_cases(histogram, [0, 0, 2]).bins())
    ]
    np.testing.assert_allclose(drawn_marginal_errors(bins, acl, weights), expected, rtol=1e-12)
    drawn = patient_weights(["a", "b", "c"], draws=400)
    counts, names = dice.counts.numpy(), {"1": "RV", "2": "MYO"}
    cell = protocol_entries(bins, counts, acl, names, drawn)["all"]["micro"]["ece"]
    assert (cell["low"], cell["high"]) == interval(drawn_marginal_errors(bins, acl, drawn))
    assert cell["low"] < cell["high"]


def test_missing_values_are_left_out():
    values = np.array([[1.0], [np.nan], [3.0]])
    weights = np.array([[1.0, 5.0, 1.0], [0.0, 3.0, 0.0], [3.0, 0.0, 1.0]])
    drawn = mean_of_draws(values, weights)[:, 0]
    np.testing.assert_array_equal(drawn, [2.0, np.nan, 1.5])
    assert interval(np.array([np.nan, np.nan, 1.0])) is None


def test_interval_is_as_wide_as_the_standard_error():
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (400, 1))
    weights = patient_weights([str(i) for i in range(400)])
    low, high = interval(mean_of_draws(values, weights)[:, 0])
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.01)
