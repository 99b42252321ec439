"""Are there enough patients? The warning, the simulation behind it, and its table."""

import csv
from pathlib import Path

import pytest
import torch

from experiments import posthoc_sizes
from mbls.posthoc import Calibrator, Card, Temperature, fit, too_few
from mbls.posthoc.held_out import held_out
from tests.posthoc.cases import case

ROOT = Path(__file__).parents[2]


def found_with(changes: list[float]) -> Calibrator:
    return Temperature(Card(("0", "1")), 1.0).reported(held_out=held_out(changes))


def test_the_warning_is_a_t_test() -> None:
    # mean -1, standard error 0.1 of 4: t of 3 is 2.35, so the upper limit is -0.76
    assert too_few(found_with([-1.0, -1.2, -0.8, -1.0])) is None
    warning = too_few(found_with([-1.0, 1.0, -0.5, 0.1]))
    assert warning is not None
    assert "4 patients are too few" in warning
    assert "Fit to more patients" in warning


@pytest.mark.parametrize("method", ["temperature", "vector", "isotonic"])
def test_held_out_results_agree_with_refitting(method: str) -> None:
    """Leaving a patient out by the estimate, and by really fitting to the others."""
    cases = [case(str(n), temperature=1.2 + 0.1 * n) for n in range(6)]
    found = fit(method, cases).report["held_out"]
    assert found["units"] == 6
    changes = []
    for each in cases:
        others = fit(method, [c for c in cases if c is not each])
        after, before = others.apply(each.log_probs()), each.log_probs()
        true = each.label[None]
        changes.append(float((before.gather(0, true) - after.gather(0, true)).mean()))
    expected = held_out(changes)
    if method == "isotonic":  # its measure is the sum over classes of one against the rest
        assert found["change"] == pytest.approx(2 * expected["change"], rel=0.5)
    else:
        assert found["change"] == pytest.approx(expected["change"], rel=0.02)
        assert found["standard_error"] == pytest.approx(expected["standard_error"], rel=0.05)
    assert found["improved"] == expected["improved"]


def test_one_patient_is_warned_of() -> None:
    for method in ("temperature", "isotonic"):
        assert "fit to 1 patient can't tell" in str(too_few(fit(method, [case("a")])))


def test_many_patients_share_groups() -> None:
    cases = [case(str(n), shape=(9, 8)) for n in range(23)]
    assert fit("isotonic", cases).report["held_out"]["units"] == 10


def test_simulation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posthoc_sizes, "SIZES", (2, 10))
    monkeypatch.setattr(posthoc_sizes, "UNSEEN", 5)
    monkeypatch.setattr(posthoc_sizes, "METHODS", ("temperature",))
    path = tmp_path / "sizes.csv"
    posthoc_sizes.main(["--repeats", "1", "--output", str(path)])
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["T"], row["patients"]) for row in rows] == [
        ("1.1", "2"), ("1.1", "10"), ("1.25", "2"), ("1.25", "10"),
    ]  # fmt: skip
    assert float(rows[3]["change"]) < -0.5
    assert posthoc_sizes.table(path).count("\n") == 3


def test_a_patient_of_the_simulation_is_too_sharp_by_its_temperature() -> None:
    random = torch.Generator().manual_seed(0)
    cases = [posthoc_sizes.patient(str(n), 1.25, random) for n in range(30)]
    assert fit("temperature", cases).report["temperature"] == pytest.approx(1.25, abs=0.08)


def test_the_table_of_the_docs_is_that_of_the_results() -> None:
    assert posthoc_sizes.table() in (ROOT / "docs" / "calibration.md").read_text()
