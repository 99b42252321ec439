"""Applying calibrators: shapes, dtypes, memory layout; and their files."""

import json
from pathlib import Path

import pytest
import torch

from mbls.posthoc import METHODS, Calibrator, fit
from mbls.posthoc.base import VERSION
from mbls.runtime.errors import CalibratorError
from tests.posthoc.cases import case, region_case

FITTED: dict[str, Calibrator] = {}


@pytest.fixture(
    params=[m for m in METHODS if not METHODS[m].extra and not METHODS[m].kind.needs_image]
)
def fitted(request: pytest.FixtureRequest) -> Calibrator:
    """A calibrator of each method, fitted once."""
    name = request.param
    if name not in FITTED:
        cases = [case(str(n)) for n in range(3)]
        FITTED[name] = fit(name, cases, class_names=("rest", "a", "b", "c"))
    return FITTED[name]


def test_result_is_a_distribution_of_the_same_kind(fitted: Calibrator) -> None:
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12), (torch.float16, 1e-2)):
        log_probs = torch.randn(4, 9, 8, dtype=torch.float64).mul(4).log_softmax(0).to(dtype)
        before = log_probs.clone()
        found = fitted.apply(log_probs)
        assert found.shape == log_probs.shape
        assert found.dtype == dtype
        assert torch.equal(log_probs, before)
        total = found.double().exp().sum(0)
        torch.testing.assert_close(total, torch.ones_like(total), atol=tolerance, rtol=0)


def test_pieces_equal_the_whole(fitted: Calibrator, monkeypatch: pytest.MonkeyPatch) -> None:
    log_probs = torch.randn(2, 4, 31, 30, 29).mul(3).log_softmax(1)
    whole = fitted.apply(log_probs)
    torch.testing.assert_close(fitted.apply(log_probs[1]), whole[1])
    monkeypatch.setattr("mbls.posthoc.base.PIECE_VALUES", 2048)
    torch.testing.assert_close(fitted.apply(log_probs), whole)
    for order in ((0, 1, 4, 2, 3), (0, 2, 3, 4, 1)):  # permuted in memory
        back = [order.index(axis) for axis in range(5)]
        strided = log_probs.permute(order).contiguous().permute(back)
        torch.testing.assert_close(fitted.apply(strided), whole)
    torch.testing.assert_close(fitted.apply(log_probs[..., ::2]), whole[..., ::2])


def test_file_round_trip_is_bitwise(fitted: Calibrator, tmp_path: Path) -> None:
    path = tmp_path / "calibrator.json"
    fitted.save(path)
    loaded = Calibrator.load(path)
    assert type(loaded) is type(fitted)
    assert loaded.to_json() == fitted.to_json()
    assert loaded.card.cases == ("0", "1", "2")
    assert loaded.card.class_names == ("rest", "a", "b", "c")
    log_probs = case("x").log_probs()
    assert torch.equal(loaded.apply(log_probs), fitted.apply(log_probs))


def test_another_number_of_classes_is_refused(fitted: Calibrator) -> None:
    with pytest.raises(CalibratorError, match=r"4 classes .*'rest'.* got .*\(5, 9, 9\)"):
        fitted.apply(torch.zeros(5, 9, 9))


def test_an_ambiguous_axis_is_refused() -> None:
    found = fit("temperature", [case("a")])
    both = torch.randn(4, 4, 5)
    with pytest.raises(CalibratorError, match=r"ambiguous in \(4, 4, 5\): state dim=1"):
        found.apply(both)
    torch.testing.assert_close(found.apply(both, dim=1)[2], found.apply(both[2]))
    torch.testing.assert_close(found.apply(both, dim=0)[:, 2], found.apply(both[:, 2, None])[:, 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "must state the format"),
        ({"version": VERSION + 1}, f"version {VERSION + 1} cannot be read"),
        ({"method": "magic"}, "no calibration method 'magic': choose one of temperature"),
        ({"num_classes": 3}, "3 classes with 4 names"),
        ({"parameters": {"temperature": -1.0}}, "temperature must be finite and above 0"),
        ({"parameters": {"temperature": "1"}}, "temperature must be numbers"),
        ({"parameters": {}}, "damaged"),
        ({"parameters": {"temperature": 1.0, "more": 2}}, "damaged"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "calibrator.json"
    content = fit("temperature", [case("a")]).to_json() | change
    path.write_text(json.dumps(content))
    with pytest.raises(CalibratorError, match=message) as error:
        Calibrator.load(path)
    assert str(path) in str(error.value)
    assert "Fit it again" in str(error.value) or "choose one of" in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "calibrator.json"
    path.write_text(text)
    with pytest.raises(CalibratorError, match=r"calibrator.json.*Fit it again"):
        Calibrator.load(path)
    with pytest.raises(CalibratorError, match="No such file"):
        Calibrator.load(tmp_path / "none.json")


def test_regions_are_calibrated_one_by_one(tmp_path: Path) -> None:
    cases = [region_case(str(n)) for n in range(4)]
    names = ("whole", "core", "enhancing")
    found = fit("temperature", cases, class_names=names)
    assert found.method == "regions"
    for region, each in enumerate(found.calibrators):
        alone = fit("temperature", [c.binary(region) for c in cases])
        assert each.temperature == pytest.approx(alone.temperature, rel=1e-4)
        assert each.temperature == pytest.approx(2.0, abs=0.15)
        assert each.card.class_names == ("rest", names[region])
    log_probs = cases[0].log_probs()
    odds = torch.logit(found.apply(log_probs).exp().double())
    expected = torch.logit(cases[0].probs.double())
    for region, each in enumerate(found.calibrators):
        torch.testing.assert_close(
            odds[region], expected[region] / each.temperature, atol=1e-3, rtol=1e-3
        )
    found.save(tmp_path / "regions.json")
    loaded = Calibrator.load(tmp_path / "regions.json")
    assert loaded.to_json() == found.to_json()
    assert torch.equal(loaded.apply(log_probs), found.apply(log_probs))


def test_a_region_of_probability_1_stays_finite() -> None:
    each = region_case("a")
    each.probs[0, 0] = 1.0
    each.probs[1, 0] = 0.0
    found = fit("temperature", [each])
    assert found.apply(each.log_probs()).isfinite().all()
