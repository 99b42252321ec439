"""Temperature and vector scaling: the optimum, the truth, and what they must not depend on."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from mbls.metrics import ClasswiseCalibrationError
from mbls.posthoc import METHODS, Card, Temperature, Vector, VectorTI, fit
from mbls.posthoc.newton_fit import RIDGE
from mbls.predictions import Prediction
from tests.posthoc.cases import case, voxels

VECTORS = {"vector": Vector, "vector_ti": VectorTI}


def parameters(calibrator: Temperature | Vector) -> Tensor:
    return torch.tensor([*calibrator.weight, *calibrator.bias], dtype=torch.float64)


def scipy_vector(cases: list[Prediction], *, centered: bool) -> np.ndarray:
    """The optimum over all voxels at once, by autograd and BFGS."""
    x, label = voxels(cases)
    x = x - x.mean(0) if centered else x
    C = len(x)
    identity = torch.cat([torch.ones(C), torch.zeros(C)]).double()

    def value(at: np.ndarray) -> tuple[float, np.ndarray]:
        theta = torch.tensor(at, requires_grad=True)
        logits = (x * theta[:C, None] + theta[C:, None]).T
        loss = F.cross_entropy(logits, label) + RIDGE / 2 * (theta - identity).square().sum()
        loss.backward()
        return loss.item(), theta.grad.numpy()

    options = {"gtol": 1e-11, "maxiter": 2000}
    return minimize(value, identity.numpy(), jac=True, method="BFGS", options=options).x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_temperature_equals_scipys_optimum(dtype: torch.dtype) -> None:
    cases = [case(str(n), dtype=dtype, ignored=0.1) for n in range(4)]
    x, label = voxels(cases)
    best = minimize_scalar(
        lambda b: float(F.cross_entropy((x * b).T, label)), bounds=(0.1, 5), method="bounded",
        options={"xatol": 1e-12},
    )  # fmt: skip
    found = fit("temperature", cases)
    assert isinstance(found, Temperature)
    assert 1 / found.temperature == pytest.approx(best.x, abs=1e-6)
    assert found.report["nll_after"] == pytest.approx(best.fun, rel=1e-6)
    assert found.report["nll_before"] == pytest.approx(float(F.cross_entropy(x.T, label)), rel=1e-6)
    assert found.report["converged"]
    assert found.report["voxels"] == len(label)


@pytest.mark.parametrize("method", VECTORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vector_equals_scipys_optimum(method: str, dtype: torch.dtype) -> None:
    cases = [case(str(n), dtype=dtype, ignored=0.1) for n in range(3)]
    best = scipy_vector(cases, centered=method == "vector_ti")
    found = fit(method, cases)
    assert isinstance(found, VECTORS[method])
    # biases have a constant free but for the tiny ridge: compare what acts
    expected, got = torch.from_numpy(best), parameters(found)
    for values in (expected, got):
        values[4:] -= values[4:].mean()
    torch.testing.assert_close(got, expected, atol=2e-6, rtol=0)
    assert found.report["converged"]


def test_vector_with_a_class_that_no_voxel_has() -> None:
    cases = [case(str(n)) for n in range(2)]
    for each in cases:
        each.label[each.label == 3] = 0
    found = fit("vector", cases)
    assert found.report["converged"]
    assert found.apply(cases[0].log_probs()).exp()[3].max() < 0.01


def test_a_known_temperature_is_given_back_within_its_interval() -> None:
    """The share of intervals that cover, over fits to patients of their own temperatures."""
    covered = 0
    for _ in range(40):
        temperatures = (1.5 * torch.randn(12).mul(0.1).exp()).tolist()
        found = fit(
            "temperature", [case(str(n), temperature=t) for n, t in enumerate(temperatures)]
        )
        covered += abs(found.temperature - 1.5) < 2.2 * found.report["temperature_se"]  # t of 11
    assert 34 <= covered <= 40  # 95 % of 40 are 38; binomial, 34 with probability 0.03


def test_the_start_does_not_matter_far_away() -> None:
    for temperature in (0.2, 6.0):
        cases = [case(str(n), temperature=temperature) for n in range(2)]
        found = fit("temperature", cases)
        assert found.temperature == pytest.approx(temperature, rel=0.1)
        assert found.report["passes"] <= 8


def test_predictions_that_are_always_right_reach_the_limit() -> None:
    each = case("a")
    found = fit("temperature", [Prediction("a", each.probs, each.probs.argmax(0), (1, 1, 1))])
    assert found.report["at_limit"]
    assert found.temperature == pytest.approx(0.02)


def test_ignored_voxels_take_no_part() -> None:
    cases = [case(str(n), ignored=0.3) for n in range(2)]
    wrong = [
        Prediction(
            c.case, torch.where(c.label == -100, c.probs.flip(0), c.probs), c.label, c.spacing
        )
        for c in cases
    ]
    for method in ("temperature", "vector"):
        assert fit(method, cases).parameters() == fit(method, wrong).parameters()


def test_rounded_maps_with_zeros_have_a_finite_fit() -> None:
    cases = []
    for n in range(3):
        each = case(str(n), temperature=4.0)
        half = each.probs.half().float()
        assert (half == 0).any()
        cases.append(Prediction(each.case, half, each.label, each.spacing, zero=2.0**-25))
    for method, low, high in (("temperature", 3.5, 4.5), ("vector", 0.15, 0.4)):
        found = fit(method, cases)
        values = [found.temperature] if method == "temperature" else found.weight
        assert all(low < value < high for value in values)
        assert found.report["nll_after"] < found.report["nll_before"]
        assert found.apply(cases[0].log_probs()).isfinite().all()


@pytest.mark.parametrize("method", ["temperature", "vector_ti"])
def test_a_constant_of_a_voxel_changes_nothing(method: str) -> None:
    found = fit(method, [case("a")])
    logits = torch.randn(4, 20, 20, dtype=torch.float64)
    moved = logits + 5 * torch.randn(20, 20, dtype=torch.float64)
    torch.testing.assert_close(found.apply(moved), found.apply(logits))
    torch.testing.assert_close(found.apply(logits.log_softmax(0)), found.apply(logits))


def test_vector_scaling_depends_on_the_constant() -> None:
    found = Vector(Card(("0", "1")), (1.0, 2.0), (0.0, 0.0))
    logits = torch.randn(2, 30)
    assert not torch.allclose(found.apply(logits + 3), found.apply(logits), atol=1e-3)


@pytest.mark.parametrize("method", ["temperature", "vector", "vector_ti"])
def test_patients_order_and_pieces_do_not_matter(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [case(str(n), ignored=0.2) for n in range(3)]
    whole = fit(method, cases)
    monkeypatch.setattr("mbls.posthoc.base.PIECE_VALUES", 4096)
    apart = fit(method, cases[::-1])
    for one, other in zip(whole.parameters().values(), apart.parameters().values(), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


@pytest.mark.parametrize("method", ["temperature", "ensemble_temperature", "class_conditional"])
def test_labels_stay_where_the_table_says_so(method: str) -> None:
    assert METHODS[method].kind.keeps_labels
    if METHODS[method].extra:
        pytest.importorskip("fiducio")
    found, each = fit(method, [case("a")]), case("b")
    assert torch.equal(found.apply(each.log_probs()).argmax(0), each.probs.argmax(0))


def test_standard_errors_need_two_patients() -> None:
    found = fit("temperature", [case("a")])
    assert found.report["temperature_se"] is None
    assert not math.isnan(found.report["nll_after"])


@pytest.mark.parametrize("method", ["temperature", "vector"])
def test_errors_fall_to_their_floor(method: str) -> None:
    """After the calibration they are as large as those of the posterior that drew the labels."""
    fitted, test = ([case(str(n), temperature=1.4) for n in range(20)] for _ in range(2))
    found = fit(method, fitted)
    errors = {name: ClasswiseCalibrationError(4) for name in ("before", "after", "posterior")}
    distance = 0.0
    for each in test:
        posterior = (each.log_probs() / 1.4).softmax(0)
        calibrated = found.apply(each.log_probs()).exp()
        distance = max(distance, float((calibrated - posterior).abs().mean()))
        shown = (each.probs, calibrated, posterior)
        for error, probs in zip(errors.values(), shown, strict=True):
            error.update(probs[None], each.label[None])
    before, after, floor = (float(error.compute()) for error in errors.values())
    assert before > 4 * floor
    assert after < 1.6 * floor
    assert distance < 0.005
