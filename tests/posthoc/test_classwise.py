"""Per-class maps from fine cells, against scikit-learn and the truth."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from mbls.metrics import ClasswiseCalibrationError, FineHistogram
from mbls.metrics.fine_bins import fine_lower_edges
from mbls.posthoc import Beta, Card, HistogramBinning, Isotonic, fit, fit_bins
from mbls.predictions import Prediction
from mbls.runtime.errors import CalibratorError
from tests.posthoc.cases import case

CLASSWISE = ("isotonic", "beta", "histogram")
NAMES = ("rest", "organ")


def binary_case(odds: torch.Tensor, truth: torch.Tensor) -> Prediction:
    """Two classes, of given log-odds and true probabilities of the second."""
    inside = odds.double().sigmoid()
    label = (torch.rand_like(truth) < truth).long()
    return Prediction("a", torch.stack([1 - inside, inside]), label, (1.0,))


def function(calibrator: Isotonic, k: int, probs: np.ndarray) -> np.ndarray:
    """The map of a class, before the division by the sum."""
    return calibrator.log_map(k, torch.from_numpy(probs).log()).exp().numpy()


def test_isotonic_equals_sklearn_where_a_cell_has_one_value() -> None:
    centers = torch.linspace(-6, 6, 200)
    odds = centers[torch.randint(200, (40_000,))]
    each = binary_case(odds, (odds * 0.6).sigmoid())
    found = fit("isotonic", [each])
    assert isinstance(found, Isotonic)
    for k in range(2):
        probs, hit = each.probs[k].numpy(), (each.label == k).numpy()
        oracle = IsotonicRegression(out_of_bounds="clip").fit(probs, hit)
        between = np.linspace(probs.min(), probs.max(), 999)
        expected = oracle.predict(between)
        inner = (expected > 0) & (expected < 1)
        assert inner.mean() > 0.9
        got = function(found, k, between)
        np.testing.assert_allclose(got[inner], expected[inner], atol=2e-8)


def test_isotonic_equals_sklearn_to_the_width_of_a_cell() -> None:
    odds = torch.randn(60_000) * 3
    each = binary_case(odds, (odds * 0.6).sigmoid())
    found = fit("isotonic", [each])
    probs, hit = each.probs[1].numpy(), (each.label == 1).numpy()
    oracle = IsotonicRegression(out_of_bounds="clip").fit(probs, hit)
    # both functions increase: ours lies between the oracle's values two cells lower and higher
    edges = fine_lower_edges()
    at = np.linspace(0.01, 0.99, 500)
    cell = np.searchsorted(edges, at, side="right") - 1
    low, high = oracle.predict(edges[cell - 2]), oracle.predict(edges[cell + 3])
    got = function(found, 1, at)
    assert ((got >= low - 0.01) & (got <= high + 0.01)).mean() > 0.99
    assert np.abs(got - oracle.predict(at)).mean() < 0.0025


def test_isotonic_has_no_zeros_and_does_not_decrease() -> None:
    each = binary_case(torch.linspace(-9, 9, 500), torch.linspace(-9, 9, 500).gt(0).double())
    found = fit("isotonic", [each])
    assert min(map(min, found.values)) == pytest.approx(0.5 / 251)
    assert max(map(max, found.values)) == pytest.approx(250.5 / 251)
    assert found.apply(each.log_probs()).isfinite().all()


def test_one_value_gives_a_constant() -> None:
    each = Prediction(
        "a", torch.full((2, 40), 0.5), torch.arange(40).remainder(4).clamp_max(1), (1.0,)
    )
    for method in CLASSWISE:
        probs = fit(method, [each]).apply(each.log_probs()).exp()
        torch.testing.assert_close(probs[1], torch.full((40,), 0.75), atol=1e-4, rtol=0)


def test_beta_equals_logistic_regression() -> None:
    odds = torch.randn(40_000) * 3
    each = binary_case(odds, (odds * 0.5 + 0.4).sigmoid())
    found = fit("beta", [each])
    assert isinstance(found, Beta)
    probs = each.probs[1].numpy()
    inputs = np.stack([np.log(probs), -np.log1p(-probs)], axis=1)
    oracle = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(inputs, each.label.numpy())
    assert (oracle.coef_ > 0).all()  # so the bounds do not act
    expected = [*oracle.coef_[0], oracle.intercept_[0]]
    np.testing.assert_allclose([found.a[1], found.b[1], found.c[1]], expected, atol=2e-3)


def test_beta_keeps_to_its_bounds() -> None:
    odds = torch.randn(20_000) * 3
    found = fit("beta", [binary_case(odds, (-odds).sigmoid())])  # the wrong way around
    assert found.a[1] == found.b[1] == 0


def test_histogram_gives_the_share_of_hits_of_each_bin() -> None:
    odds = torch.randn(50_000) * 2
    each = binary_case(odds, (odds * 0.6).sigmoid())
    found = fit("histogram", [each])
    assert isinstance(found, HistogramBinning)
    probs, hit = each.probs[1].numpy(), (each.label == 1).numpy()
    place = np.minimum((probs * 15).astype(int), 14)
    shares = [hit[place == b].mean() for b in range(15)]
    np.testing.assert_allclose(found.values[1], shares, atol=0.01)


@pytest.mark.parametrize("method", CLASSWISE)
def test_calibration_error_falls(method: str) -> None:
    fitted, test = [case(str(n)) for n in range(30)], [case(str(n)) for n in range(30)]
    found = fit(method, fitted)
    before, after = ClasswiseCalibrationError(4), ClasswiseCalibrationError(4)
    for each in test:
        before.update(each.probs[None], each.label[None])
        after.update(found.apply(each.log_probs()).exp()[None], each.label[None])
    assert float(after.compute()) < 0.35 * float(before.compute())


@pytest.mark.parametrize("method", CLASSWISE)
def test_the_file_of_a_test_gives_the_same_fit(method: str) -> None:
    cases = [case(str(n)) for n in range(4)]
    fine = FineHistogram(4, unions={"both": [1, 2]})
    for each in cases:
        fine.update(each.probs[None], each.label[None])
    names = ("rest", "a", "b", "c")
    found = fit_bins(method, fine.bins(), names, cases=["0"], patients=["p"])
    streamed = fit(method, cases, class_names=names)
    assert found.parameters() == streamed.parameters()
    assert found.report["nll_per_class_after"] == streamed.report["nll_per_class_after"]
    assert found.card.patients == ("p",)


def test_files_that_do_not_match_are_refused() -> None:
    fine = FineHistogram(2, regions=("label",))
    with pytest.raises(CalibratorError, match=r"temperature can't be fitted .* isotonic, beta"):
        fit_bins("temperature", fine.bins(), NAMES)
    with pytest.raises(CalibratorError, match="doesn't have the 2 classes"):
        fit_bins("beta", fine.bins(), NAMES)
    with pytest.raises(CalibratorError, match="doesn't have the 3 classes"):
        fit_bins("beta", FineHistogram(2).bins(), ("0", "1", "2"))


@pytest.mark.parametrize("method", CLASSWISE)
def test_damaged_parameters_are_refused(method: str) -> None:
    content = fit(method, [case("a")]).to_json()
    name = {"isotonic": "values", "beta": "a", "histogram": "values"}[method]
    short = replace(Card(("0",)), class_names=("0", "1", "2", "3"))
    values = content["parameters"][name]
    bad = (-1.0,) * 4 if method == "beta" else tuple((0.0,) * len(v) for v in values)
    for change in (values[1:], bad):
        parameters = content["parameters"] | {name: change}
        with pytest.raises(ValueError, match=r"must be|functions of 3 classes"):
            type(fit(method, [case("a")])).from_parameters(short, parameters)
