"""Volumes from counts equal those of voxels; intervals are split conformal by patients."""

from dataclasses import replace

import numpy as np
import pytest

from mbls.decisions.conformal import conformal_quantile, crps
from mbls.decisions.quantities import FLOOR_ML, Quantity, quantities_of, variance_of
from mbls.decisions.volumes import calibrate, calibrate_groups
from mbls.runtime.errors import DecisionError
from tests.decisions.made import SPACING, poisoned, run_of, volumes

ML = np.prod(SPACING) / 1000


def by_name(patients: int = 6, *, first: int = 0) -> dict[str, Quantity]:
    return {one.name: one for one in quantities_of(run_of(patients, first=first))}


def test_volumes_are_sums_over_voxels() -> None:
    probs, label = volumes(12, 0)
    kept = (label >= 0)[:, None].double()
    each = (probs.double() * kept)[:, 1:].flatten(2).sum(2)
    found = by_name()
    for name, members in {"RV": [1], "MYO": [2], "heart": [1, 2]}.items():
        one = found[name]
        expected = sum(each[:, k - 1] for k in members).numpy() * ML
        np.testing.assert_allclose(one.expected, expected, rtol=1e-6)
        for values, classes in ((one.labeled, label), (one.predicted, probs.argmax(1))):
            inside = sum((classes == k) & (label >= 0) for k in members)
            np.testing.assert_allclose(values, inside.flatten(1).sum(1).numpy() * ML)
        assert one.unit == "ml"


def test_the_variance_is_about_that_of_the_voxels() -> None:
    probs, label = volumes(12, 0)
    rv = probs[:, 1].double() * (label >= 0)
    exact = (rv * (1 - rv)).flatten(1).sum(1).numpy() * ML
    found = by_name()["RV"].scale - FLOOR_ML
    assert (found >= exact - 1e-9).all()
    np.testing.assert_allclose(found, exact, rtol=1 / 60)
    assert variance_of(np.array([4, 0]), np.array([1.0, 0.0])) == 0.75


def test_derived_quantities_are_those_of_a_patient() -> None:
    found = by_name()
    myo, rv, fraction = (found[name] for name in ("MYO", "RV", "EF"))
    assert list(fraction.rows) == [f"p{n}" for n in range(6)]
    for name in ("expected", "predicted", "labeled"):
        end, start = getattr(myo, name)[0::2], getattr(myo, name)[1::2]
        with np.errstate(divide="ignore", invalid="ignore"):
            expected = np.where(end > 0, 100 * (end - start) / end, np.nan)  # nothing predicted
        np.testing.assert_allclose(getattr(fraction, name), expected)
        np.testing.assert_allclose(getattr(found["mass"], name), 1.05 * getattr(rv, name)[0::2])
    assert (fraction.unit, found["mass"].unit) == ("%", "g")


def test_a_patient_without_a_phase_has_no_value_and_does_not_calibrate() -> None:
    phases = ["ED", "ES"] * 6
    phases[1] = "other"
    one = quantities_of(run_of(6, phases=phases))[3]
    assert np.isnan(one.labeled).tolist() == [True] + [False] * 5
    assert set(one.scores()) == {f"p{n}" for n in range(1, 6)}
    found = calibrate(one, by_name(9, first=50)["EF"], 0.2)
    assert set(found.covered()) == set(one.scores())
    assert (found.low[0], found.high[0]) == (-np.inf, np.inf)
    with pytest.raises(DecisionError, match=r"EF needs 'myo ED', but the test has .* phases x"):
        quantities_of(run_of(2, phases=["x"] * 4))
    with pytest.raises(DecisionError, match="did not keep the size of voxels"):
        quantities_of(replace(run_of(1), voxel_ml=None))


def test_a_patient_counts_once_with_the_largest_error_of_its_cases() -> None:
    test, validation = by_name(5, first=100)["RV"], by_name(12)["RV"]
    errors = np.abs(validation.labeled - validation.expected) / validation.scale
    scores = errors.reshape(12, 2).max(axis=1)
    found = calibrate(test, validation, 0.2)
    assert found.quantile == conformal_quantile(scores, 0.2) == np.sort(scores)[10]
    assert found.number == 12
    reach = found.quantile * test.scale
    np.testing.assert_allclose(found.low, np.maximum(test.expected - reach, 0))
    np.testing.assert_allclose(found.high, test.expected + reach)
    inside = (found.low <= test.labeled) & (test.labeled <= found.high)
    assert found.covered() == {
        f"p{100 + n}": bool(both) for n, both in enumerate(inside.reshape(5, 2).all(1))
    }


def test_poisoned_test_labels_change_no_interval() -> None:
    validation = by_name(12)
    for name, test in by_name(5, first=100).items():
        found = calibrate(test, validation[name], 0.2)
        other = calibrate(poisoned(test), validation[name], 0.2)
        assert np.array_equal(found.low, other.low)
        assert np.array_equal(found.high, other.high)
        assert found.quantile == other.quantile
        assert not any(other.covered().values())


def test_too_few_patients_have_an_infinite_interval() -> None:
    found = calibrate(by_name(3, first=100)["RV"], by_name(8)["RV"], 0.1)
    assert np.isinf(found.high).all()
    assert found.row()["coverage"] == 1
    assert found.too_few() == (
        "RV: 8 patients calibrate, and a level of 0.9 needs 9: the interval is infinite."
    )
    assert calibrate(by_name(3, first=100)["RV"], by_name(9)["RV"], 0.1).too_few() is None


def test_the_width_is_of_rows_with_an_estimate() -> None:
    test, validation = by_name(5, first=100)["EF"], by_name(12)["EF"]
    whole = calibrate(test, validation, 0.2)
    missing = replace(test, expected=np.where(np.arange(5) == 1, np.nan, test.expected))
    found = calibrate(missing, validation, 0.2)
    assert np.isinf(found.high[1])
    assert (found.row()["without_estimate"], whole.row()["without_estimate"]) == (1, 0)
    kept = np.delete(whole.high - whole.low, 1)
    assert found.row()["width"] == pytest.approx(kept.mean())
    assert np.isinf(calibrate(missing, validation, 0.01).row()["width"])  # too few patients
    none = replace(test, expected=np.full(5, np.nan))
    assert np.isnan(calibrate(none, validation, 0.2).row()["width"])


def test_the_row_has_bias_error_and_crps() -> None:
    test, validation = by_name(5, first=100)["RV"], by_name(12)["RV"]
    found = calibrate(test, validation, 0.2)
    row = found.row()
    for which, estimate in (("expected", test.expected), ("argmax", test.predicted)):
        assert row[f"{which}_bias"] == pytest.approx((estimate - test.labeled).mean())
        assert row[f"{which}_absolute"] == pytest.approx(np.abs(estimate - test.labeled).mean())
        assert row[f"{which}_bias_low"] <= row[f"{which}_bias"] <= row[f"{which}_bias_high"]
    residuals = (validation.labeled - validation.expected) / validation.scale
    sample = test.expected[0] + test.scale[0] * residuals
    score = crps(sample, np.full(24, 1 / 24), test.labeled[0])
    assert found.crps[0] == pytest.approx(score)
    assert row["width"] == pytest.approx((found.high - found.low).mean())
    assert len(found.cases()["case"]) == 10


def test_nobody_calibrates_and_is_tested() -> None:
    one = by_name()["RV"]
    with pytest.raises(DecisionError, match=r"6 patients both calibrate .* \(p0, p1, p2, \.\.\.\)"):
        calibrate(one, one, 0.2)


@pytest.mark.parametrize("alpha", [0, 1, 1.5])
def test_alpha_is_checked(alpha: float) -> None:
    with pytest.raises(DecisionError, match=rf"ALPHA .* above 0 and below 1, got {alpha}"):
        calibrate(by_name(3, first=100)["RV"], by_name(9)["RV"], alpha)


def test_a_cross_fit_calibrates_each_group_on_the_others() -> None:
    one = by_name(12)["MYO"]
    groups = {f"p{n}": n % 3 for n in range(12)}
    found = calibrate_groups(one, groups, 0.2)
    own = np.array([groups[patient] for patient in one.patients])
    for group in range(3):
        part = calibrate(one.of(own == group), one.of(own != group), 0.2)
        assert np.array_equal(found.high[own == group], part.high)
        assert np.array_equal(found.crps[own == group], part.crps)
    assert (found.number, found.quantile) == (8, None)
