"""Local temperature scaling: a temperature that the image shows is found."""

from dataclasses import replace

import pytest
import torch

from mbls.posthoc import Calibrator, cross_fit, fit, patient_groups
from mbls.posthoc.local import REACH, LocalTemperature
from mbls.predictions import Prediction
from mbls.runtime.errors import CalibratorError
from tests.posthoc.cases import case, region_case


def shown_case(name: str, shape: tuple[int, ...] = (48, 44)) -> Prediction:
    """Predictions that are three times too sharp where the image is bright."""
    logits = torch.randn(3, *shape) * 2
    label = torch.distributions.Categorical(logits=logits.flatten(1).T).sample().view(shape)
    image = torch.zeros(1, *shape)
    image[:, shape[0] // 2 :] = 1.0
    probs = (logits * (1 + 2 * image)).softmax(0)
    spacing = (1.0,) * len(shape)
    return Prediction(name, probs, label, spacing, image=image + 0.01 * torch.randn(1, *shape))


@pytest.mark.parametrize("shape", [(48, 44), (16, 12, 14)], ids=["2d", "3d"])
def test_a_temperature_that_the_image_shows_is_found(shape: tuple[int, ...]) -> None:
    cases = [shown_case(str(n), shape) for n in range(10)]
    found = fit("local_temperature", cases)
    assert isinstance(found, LocalTemperature)
    assert len(found.weights) < 5000
    new = shown_case("new", shape)
    log_probs = new.log_probs()
    nll = {}
    for name, each in (("local", found), ("one", fit("temperature", cases))):
        calibrated = each.apply(log_probs, new.image)
        nll[name] = float(-calibrated.gather(0, new.label[None]).mean())
    truth = torch.cat([p / t for p, t in zip(log_probs.tensor_split(2, 1), (1, 3), strict=True)], 1)
    best = float(-truth.log_softmax(0).gather(0, new.label[None]).mean())
    assert nll["local"] - best < 0.3 * (nll["one"] - best)
    calibrated = found.apply(log_probs, new.image)
    assert torch.equal(calibrated.argmax(0), log_probs.argmax(0))
    assert torch.equal(
        Calibrator.from_json(found.to_json()).apply(log_probs, new.image), calibrated
    )
    batch = found.apply(log_probs[None], new.image[None])
    assert torch.equal(batch[0], calibrated)


def test_it_is_fitted_to_what_a_validation_yields() -> None:
    with torch.inference_mode():
        cases = [shown_case(str(n)) for n in range(2)]
        inside = fit("local_temperature", cases)
    outside = fit("local_temperature", [replace(c, probs=c.probs.clone()) for c in cases])
    assert inside.parameters() == outside.parameters()


def test_slabs_equal_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [shown_case(str(n)) for n in range(2)]
    found = fit("local_temperature", cases)
    whole = found.apply(cases[0].log_probs(), cases[0].image)
    monkeypatch.setattr("mbls.posthoc.local.CROP", {2: REACH, 3: REACH})
    apart = found.apply(cases[0].log_probs(), cases[0].image)
    torch.testing.assert_close(apart, whole)


def test_a_poisoned_case_does_not_change_its_own_calibrator() -> None:
    cases = [shown_case(str(n)) for n in range(4)]
    groups = patient_groups([c.case for c in cases], 2)
    honest = cross_fit("local_temperature", cases, groups)
    absurd = [replace(cases[0], label=cases[0].probs.argmin(0)), *cases[1:]]
    found = cross_fit("local_temperature", absurd, groups)
    own = groups["0"]
    assert found[own].to_json() == honest[own].to_json()
    assert found[1 - own].parameters() != honest[1 - own].parameters()


def test_without_an_image() -> None:
    with pytest.raises(CalibratorError, match="needs an image and classes in 2D or 3D"):
        fit("local_temperature", [case("a")])
    with pytest.raises(CalibratorError, match="is for classes, and case b has regions"):
        fit("local_temperature", [region_case("b")])
    shown = shown_case("a")
    found = fit("local_temperature", [shown])
    with pytest.raises(CalibratorError, match="needs the image of each case, got none"):
        found.apply(shown.log_probs())
    with pytest.raises(CalibratorError, match=r"must have 1 channels .*, got \(2, 48, 44\)"):
        found.apply(shown.log_probs(), torch.zeros(2, 48, 44))
