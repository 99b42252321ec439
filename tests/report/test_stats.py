"""Statistics over seeds and patients: values on paper, and agreement with scipy."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from mbls.report.stats import (
    cautions,
    difference,
    holm,
    lacking,
    loss_effect,
    patient_interval,
    pseudo_values,
    sign_flip,
)


def made(seeds, patients, *, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, (seeds, patients))


def test_without_differences_between_seeds_it_is_the_paired_t_test():
    a, b = made(1, 12), made(1, 12, seed=1)
    found = difference(np.repeat(a, 3, 0), np.repeat(b, 3, 0))
    known = scipy_stats.ttest_rel(a[0], b[0])
    assert found.p == pytest.approx(known.pvalue, rel=1e-6)
    limits = known.confidence_interval()
    assert (found.low, found.high) == pytest.approx((limits.low, limits.high))
    assert found.se_seeds == 0


def test_without_differences_between_patients_it_is_welchs_test():
    a, b = made(3, 1), made(5, 1, seed=1)
    found = difference(np.repeat(a, 20, 1), np.repeat(b, 20, 1))
    known = scipy_stats.ttest_ind(a[:, 0], b[:, 0], equal_var=False)
    assert found.p == pytest.approx(known.pvalue, rel=1e-6)
    limits = known.confidence_interval()
    assert (found.low, found.high) == pytest.approx((limits.low, limits.high))
    assert found.se_patients == pytest.approx(0, abs=1e-12)


def test_one_loss_alone_follows_the_same_limits():
    patients = made(1, 9)
    found = loss_effect(np.repeat(patients, 4, 0))
    limits = scipy_stats.ttest_1samp(patients[0], 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((limits.low, limits.high))
    seeds = made(4, 1)
    found = loss_effect(np.repeat(seeds, 9, 1))
    limits = scipy_stats.ttest_1samp(seeds[:, 0], 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((limits.low, limits.high))


def test_an_interval_touches_zero_where_p_is_its_level():
    a, b = made(3, 8, shift=0.4), made(4, 8, seed=1)
    p = difference(a, b).p
    found = difference(a, b, level=1 - p)
    assert min(abs(found.low), abs(found.high)) == pytest.approx(0, abs=1e-9)


def test_a_single_seed_gives_no_interval_over_seeds():
    found = difference(made(1, 8), made(3, 8, seed=1))
    assert np.isnan([found.low, found.high, found.p, found.se_seeds]).all()
    assert found.se_patients > 0


def test_equal_losses_are_no_difference():
    a = made(3, 8)
    assert difference(a, a).p == 1
    assert sign_flip(a[0] - a[0]) == 1


def test_losses_of_other_patients_are_refused():
    with pytest.raises(ValueError, match="same patients, got 8 and 9"):
        difference(made(2, 8), made(2, 9))


def test_signs_agree_with_scipy():
    values = made(3, 10, shift=0.5).T
    for column, p in zip(values.T, sign_flip(values), strict=True):
        known = scipy_stats.permutation_test(
            (column,), lambda x, axis: x.mean(axis), permutation_type="samples", n_resamples=np.inf
        )
        assert p == pytest.approx(known.pvalue)
    many = made(1, 40, shift=0.3).T
    known = scipy_stats.permutation_test(
        (many[:, 0],), lambda x, axis: x.mean(axis), permutation_type="samples", rng=1
    )
    assert sign_flip(many)[0] == pytest.approx(known.pvalue, abs=0.02)


def test_signs_of_nan_are_nan():
    values = made(2, 8).T
    values[3, 1] = np.nan
    p = sign_flip(values)
    assert p[0] > 0
    assert np.isnan(p[1])


def test_holm_on_paper():
    assert holm([0.01, 0.04, 0.03, 0.005]) == [0.03, 0.06, 0.06, 0.02]
    adjusted = holm([0.5, float("nan"), 0.9])
    assert adjusted[0] == 1
    assert np.isnan(adjusted[1])
    assert adjusted[2] == 1


def test_pseudo_values_of_a_mean_are_the_patients_own():
    values = made(1, 7)[0]
    without = np.array([np.delete(values, p).mean() for p in range(7)])
    np.testing.assert_allclose(pseudo_values(values.mean(), without), values)


def test_the_interval_over_patients_is_students():
    values = made(1, 6)[0]
    rng = np.random.default_rng(0)
    drawn = values[rng.integers(0, 6, (100_000, 6))].mean(1)
    low, high = patient_interval(values.mean(), drawn, 6)
    known = scipy_stats.ttest_1samp(values, 0).confidence_interval()
    assert (low, high) == pytest.approx((known.low, known.high), abs=0.01)
    assert np.isnan(patient_interval(np.nan, drawn, 6)).all()
    assert np.isnan(patient_interval(0.0, np.full(9, np.nan), 6)).all()


def test_an_interval_is_never_shorter_than_the_seeds_alone_allow():
    """Two losses whose seeds' means differ by the noise between seeds alone."""
    a, b = made(3, 40), made(3, 40, seed=1)
    found = difference(a, b)
    known = scipy_stats.ttest_ind(a.mean(1), b.mean(1), equal_var=False)
    limits = known.confidence_interval()
    assert found.se_seeds < found.se_patients
    assert (found.low, found.high) == pytest.approx((limits.low, limits.high))
    assert found.p == pytest.approx(known.pvalue, rel=1e-6)


def test_skewness_lowers_coverage():
    """The term of skewness on paper, 0.247 times its square over P; 2 for exponential values."""
    rng = np.random.default_rng(0)
    assert lacking(rng.exponential(size=100_000)) * 100_000 == pytest.approx(0.989, rel=0.1)
    assert lacking(rng.normal(size=100)) < 0.001
    assert lacking(np.ones(9)) == 0
    almost = np.full(100, 0.9) + np.eye(100)[0] * 1e-13  # as sums in another order leave constants
    assert lacking(almost) == 0
    assert lacking(almost * 1e-6) == 0
    assert lacking(np.eye(100)[0] * 1e-13) > 0.2  # small, not constant
    assert np.isnan(lacking(np.full(2, np.nan)))


@pytest.mark.parametrize(
    ("seeds", "patients", "facts"),
    [
        ([1, 3], 100, ["single seed"]),
        ([2, 5], 100, ["2 seeds"]),
        ([3, 3], 100, []),
        ([5, 5], 8, ["With 8 patients"]),
        ([5, 5], 20, ["With 20 patients"]),
        ([5, 5], 4, ["With 4 patients", "p < 0.12"]),
    ],
)
def test_cautions_about_few_seeds_and_patients(seeds, patients, facts):
    for caution, fact in zip(cautions(seeds, patients), facts, strict=True):
        assert fact in caution
