"""Cross-fitting: no case is seen by its own calibrator, and each is read once a pass."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from mbls.posthoc import METHODS, cross_fit, fit, patient_groups
from mbls.predictions import Prediction
from mbls.runtime.errors import CalibratorError
from tests.posthoc.cases import case

PATIENTS = {f"{patient}-{scan}": patient for patient in "abcdef" for scan in range(2)}
OWN = [m for m in METHODS if not METHODS[m].extra and not METHODS[m].kind.needs_image]


@pytest.fixture(scope="module")
def cases() -> list[Prediction]:
    torch.manual_seed(1)
    return [case(name, shape=(11, 10, 9)) for name in PATIENTS]


@pytest.mark.parametrize("method", OWN)
def test_a_poisoned_case_does_not_change_its_own_calibrator(
    method: str, cases: list[Prediction]
) -> None:
    groups = patient_groups(PATIENTS.values(), 3)
    honest = cross_fit(method, cases, groups, patients=PATIENTS)
    victim = cases[4]
    absurd = replace(victim, label=victim.probs.argmin(0))
    poisoned = [absurd if c is victim else c for c in cases]
    found = cross_fit(method, poisoned, groups, patients=PATIENTS)
    own = groups[PATIENTS[victim.case]]
    assert found[own].to_json() == honest[own].to_json()
    for group in set(groups.values()) - {own}:
        assert found[group].parameters() != honest[group].parameters()


@pytest.mark.parametrize("method", OWN)
def test_it_equals_fits_to_the_other_groups(method: str, cases: list[Prediction]) -> None:
    groups = patient_groups(PATIENTS.values(), 3)
    found = cross_fit(method, cases, groups, patients=PATIENTS)
    assert set(found) == {0, 1, 2}
    for group, each in found.items():
        others = [c for c in cases if groups[PATIENTS[c.case]] != group]
        alone = fit(method, others, patients=PATIENTS)
        assert each.to_json() == alone.to_json()
        assert set(each.card.cases) == {c.case for c in others}
        assert not {p for p in each.card.patients if groups[p] == group}


def test_each_case_is_read_once_a_pass(cases: list[Prediction]) -> None:
    reads: list[str] = []

    def stream() -> Iterator[Prediction]:
        for each in cases:
            reads.append(each.case)
            yield each

    groups = patient_groups(PATIENTS.values(), 3)
    found = cross_fit("temperature", stream, groups, patients=PATIENTS)
    passes = max(each.report["passes"] for each in found.values())
    assert reads == [c.case for c in cases] * passes
    assert passes <= 5


def test_groups_are_of_patients_and_do_not_depend_on_order() -> None:
    names = [f"patient{n}" for n in range(23)]
    groups = patient_groups(names, 5)
    assert groups == patient_groups(names[::-1] + names, 5)
    sizes = [list(groups.values()).count(k) for k in range(5)]
    assert max(sizes) - min(sizes) <= 1
    assert groups != patient_groups(names, 5, seed=1)


def test_errors(cases: list[Prediction]) -> None:
    with pytest.raises(CalibratorError, match="from 2 to the number of patients, 3, got 4"):
        patient_groups("abc", 4)
    with pytest.raises(CalibratorError, match="at least two groups of patients, got 1"):
        cross_fit("temperature", cases, dict.fromkeys("abcdef", 0), patients=PATIENTS)
    with pytest.raises(CalibratorError, match="f has no group"):
        cross_fit(
            "temperature", cases, dict(zip("abcde", range(5), strict=True)), patients=PATIENTS
        )
    with pytest.raises(CalibratorError, match="b-0 has no patient"):
        fit("temperature", cases, patients={"a-0": "a", "a-1": "a"})
    with pytest.raises(CalibratorError, match="no calibration method 'temprature'"):
        fit("temprature", cases)
    with pytest.raises(CalibratorError, match="There are no cases"):
        fit("temperature", [])
    ignored = replace(cases[0], label=torch.full_like(cases[0].label, -100))
    with pytest.raises(CalibratorError, match="No voxel of the cases has a label"):
        fit("temperature", [ignored])
    with pytest.raises(CalibratorError, match=r"x has 3 channels, but the class names are .*'3'"):
        fit("temperature", [cases[0], case("x", classes=3)])
    for value in (4, -1):
        wrong = replace(cases[0], label=torch.full_like(cases[0].label, value))
        with pytest.raises(CalibratorError, match=f"a-0 has the label {value}.* 0 to 3"):
            fit("temperature", [wrong])
    for value, shown in ((3.0, "3"), (float("nan"), "nan"), (-1.0, "-1")):
        probs = cases[0].probs.clone()
        probs[1, 2, 3, 4] = value
        with pytest.raises(CalibratorError, match=f"a-0 has values from .*{shown}.*softmax"):
            fit("temperature", [replace(cases[0], probs=probs)])
