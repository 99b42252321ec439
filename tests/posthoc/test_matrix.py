"""The methods of fiducio: its parameters, applied by our own code."""

import sys

import pytest
import torch

from mbls.posthoc import METHODS, Calibrator, cross_fit, fit, patient_groups
from mbls.runtime.errors import MissingExtraError
from tests.posthoc.cases import case, voxels

FIDUCIO = [name for name, method in METHODS.items() if method.extra == "fiducio"]


@pytest.mark.parametrize("method", FIDUCIO)
def test_it_equals_fiducio(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fiducio = pytest.importorskip("fiducio")
    cases = [case(str(n), ignored=0.1) for n in range(2)]
    found = fit(method, cases)
    kind = METHODS[method].kind
    oracle = getattr(fiducio, kind.fiducio)(optimizer="lbfgs", device="cpu", **kind.settings)
    log_probs, label = voxels(cases)
    assert found.report["sampled"] == found.report["voxels"] == len(label)
    oracle.fit(log_probs.T.float(), label)
    other = case("x").log_probs()
    expected = oracle.transform(other[None])[0]
    # the order of the voxels differs, and with it where L-BFGS ends
    torch.testing.assert_close(found.apply(other).exp(), expected, atol=3e-3, rtol=0)
    assert found.report["nll_after"] < found.report["nll_before"] - 0.01
    loaded = Calibrator.from_json(found.to_json())
    assert torch.equal(loaded.apply(other), found.apply(other))
    if kind.keeps_labels:
        assert torch.equal(found.apply(other).argmax(0), other.argmax(0))


def test_matrix_scaling_does_not_depend_on_a_constant() -> None:
    pytest.importorskip("fiducio")
    found = fit("matrix", [case("a")])
    logits = torch.randn(4, 300, dtype=torch.float64)
    torch.testing.assert_close(found.apply(logits + 5, dim=0), found.apply(logits, dim=0))


def test_the_sample_is_of_constant_size_and_without_the_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("fiducio")
    monkeypatch.setattr("mbls.posthoc.matrix.SAMPLE", 500)
    cases = [case(str(n)) for n in range(6)]
    groups = patient_groups([c.case for c in cases], 2)
    honest = cross_fit("matrix", cases, groups)
    assert {each.report["sampled"] for each in honest.values()} == {500}
    victim = cases[0]
    victim.label[:] = victim.probs.argmin(0)
    found = cross_fit("matrix", cases, groups)
    own = groups[victim.case]
    assert found[own].to_json() == honest[own].to_json()
    assert found[1 - own].parameters() != honest[1 - own].parameters()


def test_without_fiducio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fiducio", None)
    with pytest.raises(MissingExtraError, match=r"matrix needs fiducio: pip install 'mbls\[fid"):
        fit("matrix", [case("a")])
