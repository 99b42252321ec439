"""Risk-coverage curves equal their definitions, and levels come from other patients."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from mbls.decisions.refer import (
    _level,
    case_confidences,
    case_risk,
    refer,
    referral,
    referrals,
    structure_referrals,
)
from mbls.decisions.risk_coverage import augrc, aurc, selective_risk
from mbls.evaluation import TestRun
from mbls.evaluation.scoring import TestMetrics
from mbls.runtime.errors import DecisionError


def by_definition(order, risk) -> tuple[float, float]:
    """AURC and AUGRC of one order of cases, the surest first."""
    n, selective, generalized = len(order), [], [0.0]
    for accepted in range(1, n + 1):
        total = sum(risk[case] for case in order[:accepted])
        selective.append(total / accepted)
        generalized.append(total / n)
    return float(np.mean(selective)), float(np.trapezoid(generalized, np.arange(n + 1) / n))


def orders(confidence):
    """All orders of cases by confidence, which differ in tied ones."""
    for order in itertools.permutations(range(len(confidence))):
        if all(confidence[a] >= confidence[b] for a, b in itertools.pairwise(order)):
            yield order


@pytest.mark.parametrize("confidence", [[5, 4, 3, 2, 1, 0], [3, 1, 3, 1, 1, 2], [1] * 6])
def test_areas_are_the_mean_over_all_orders_of_tied_cases(confidence) -> None:
    risk = np.random.default_rng(1).uniform(size=6)
    expected = np.mean([by_definition(order, risk) for order in orders(confidence)], axis=0)
    values = np.array(confidence, float)
    assert (aurc(values, risk), augrc(values, risk)) == pytest.approx(tuple(expected), abs=1e-12)
    shuffled = np.array([4, 0, 5, 1, 3, 2])
    assert aurc(values[shuffled], risk[shuffled]) == pytest.approx(expected[0], abs=1e-12)


def test_areas_worked_out_on_paper() -> None:
    confidence, risk = np.array([0.1, 0.9, 0.5, 0.7]), np.array([1.0, 0.0, 0.5, 0.0])
    assert selective_risk(confidence, risk) == pytest.approx([0, 0, 0.5 / 3, 1.5 / 4])
    assert aurc(confidence, risk) == pytest.approx((0.5 / 3 + 1.5 / 4) / 4)
    assert augrc(confidence, risk) == pytest.approx((0 + 0.0625 + 0.25) / 4)  # trapezoids


def test_augrc_of_failures_follows_from_auroc() -> None:
    """AUGRC = (1 - AUROC) acc (1 - acc) + (1 - acc)^2 / 2 (Traub et al. 2024), with ties."""
    rng = np.random.default_rng(2)
    risk = rng.integers(2, size=50).astype(float)
    confidence = np.round(rng.uniform(size=50) - 0.3 * risk, 1)
    right = 1 - risk
    acc, auroc = right.mean(), roc_auc_score(right, confidence)
    expected = (1 - auroc) * acc * (1 - acc) + (1 - acc) ** 2 / 2
    assert augrc(confidence, risk) == pytest.approx(expected, abs=1e-12)


def test_random_and_ideal_orders_bound_a_referral() -> None:
    rng = np.random.default_rng(3)
    risk = rng.uniform(size=30)
    found = referral("soft_dice", 0.5 - risk + rng.normal(0, 0.2, 30), risk,
                     [f"p{n // 2}" for n in range(30)], draws=400)  # fmt: skip
    value, low, high = found.areas["aurc"]
    random, ideal = found.bounds["aurc"]
    assert random == pytest.approx(risk.mean())
    assert ideal < value < random
    assert low < value < high
    assert found.bounds["augrc"][0] == pytest.approx(risk.mean() / 2)
    assert (found.low <= found.high).all()
    assert found.risk[-1] == pytest.approx(found.random)
    alone = referral("soft_dice", -risk, risk, ["p"] * 30)
    assert np.isnan(alone.low).all()
    assert np.isnan(alone.areas["aurc"][1])


def test_drawing_a_patient_twice_counts_its_cases_twice() -> None:
    risk, confidence = np.array([0.1, 0.7, 0.4]), np.array([3.0, 1.0, 2.0])
    twice = np.array([0, 0, 1, 1, 2, 2])
    orders_of = np.mean([by_definition(o, risk[twice]) for o in orders(confidence[twice])], axis=0)
    assert aurc(confidence[twice], risk[twice]) == pytest.approx(orders_of[0])


NAMES = [f"p{n}" for n in range(8)]


def scored(names=NAMES, *, seed: int = 0) -> TestRun:
    """Cases whose networks are less and less sure."""
    metrics = TestMetrics(3, len(names), unions={"both": (1, 2)})
    generator = torch.Generator().manual_seed(seed)
    for n in range(len(names)):
        label = torch.zeros(1, 12, 12, 3, dtype=torch.long)
        label[:, 2:8, 2:8], label[:, 4:6, 4:6] = 1, 2
        one_hot = torch.nn.functional.one_hot(label, 3).movedim(-1, 1).float()
        noise = torch.randn(1, 3, 12, 12, 3, generator=generator)
        probs = ((5 - 0.6 * n) * one_hot + noise).softmax(1)
        if n == 7:
            label.zero_()
        batch = {"label": label, "index": torch.tensor([n]), "spacing": torch.ones(1, 3),
                 "case": [names[n]]}  # fmt: skip
        metrics.update(probs, batch)
    meta = {"dataset": "acdc", "origin": "phantom", "class_names": ["background", "a", "b"]}
    return metrics.run(cases=names, patients=names, meta=meta)


def test_confidences_are_means_of_classes_and_orders_skip_cases_without_dice() -> None:
    run = scored()
    found = case_confidences(run)
    assert list(found) == ["soft_dice", "expected_dice", "entropy_near", "entropy_all"]
    np.testing.assert_allclose(found["soft_dice"], run.confidence.soft_dice()[:, 1:3].mean(1))
    risk = case_risk(run)
    assert np.isnan(risk[7])
    assert risk[0] < risk[6]
    by_name = {one.measure: one for one in referrals(run, draws=50)}
    assert len(by_name["soft_dice"].risk) == 7
    ordered = by_name["soft_dice"].areas["aurc"][0]
    assert ordered < by_name["soft_dice"].random
    rows = run.rows()
    np.testing.assert_allclose(rows["soft_dice/a"], run.confidence.soft_dice()[:, 1])
    np.testing.assert_allclose(rows["entropy/near"], -found["entropy_near"])


def test_each_structure_is_ordered_by_its_own_confidence() -> None:
    run = scored()
    found = {(one.structure, one.measure): one for one in structure_referrals(run, draws=50)}
    assert {name for name, _ in found} == {"a", "b", "both"}
    known = ~np.isnan(run.overlaps["dice"][:, 2])
    expected = aurc(run.confidence.soft_dice()[known, 2], 1 - run.overlaps["dice"][known, 2])
    assert found["b", "soft_dice"].areas["aurc"][0] == pytest.approx(expected)
    assert found["both", "expected_dice"].row()["structure"] == "both"


def test_a_file_keeps_the_confidence_and_an_old_one_is_refused(tmp_path) -> None:
    run = scored()
    run.save(tmp_path / "bins.npz")
    again = case_confidences(TestRun.load(tmp_path / "bins.npz"))
    for name, values in case_confidences(run).items():
        np.testing.assert_array_equal(values, again[name])
    old = replace(run, confidence=None)
    old.save(tmp_path / "old.npz")
    loaded = TestRun.load(tmp_path / "old.npz")
    assert "soft_dice/a" not in loaded.rows()
    with pytest.raises(DecisionError, match="earlier version"):
        referrals(loaded)


def test_a_level_comes_from_other_patients() -> None:
    others, test = scored(), scored([f"t{n}" for n in range(8)], seed=1)
    found = refer(test, others, share=0.26)
    level = np.sort(case_confidences(others)["soft_dice"])[2]  # two of eight are below
    assert found.level == level
    np.testing.assert_array_equal(found.cases, case_confidences(test)["soft_dice"] < level)
    poisoned = replace(test, dice=test.dice * 0 + 1)
    assert refer(poisoned, others, share=0.26).level == level
    said = "below which 2 of 8 cases of other patients are refers"
    assert f"{said} {found.cases.sum()} of 8" in found.sentence()
    assert (found.below, found.warning()) == (((2, 8),), None)
    assert refer(test, others, measure="entropy_all").level < 0
    with pytest.raises(DecisionError, match="chosen on 8 of the test patients"):
        refer(others, others)
    with pytest.raises(DecisionError, match=r"SHARE .* got 1"):
        refer(test, others, share=1)


def test_a_share_of_less_than_a_case_is_told() -> None:
    others, test = scored(), scored([f"t{n}" for n in range(8)], seed=1)
    found = refer(test, others, share=0.1)
    assert found.level == case_confidences(others)["soft_dice"].min()
    assert "below which 0 of 8 cases" in found.sentence()
    assert "SHARE 0.1 of 8 cases of other patients is less than a case" in found.warning()


def test_a_share_is_rounded_down_to_whole_cases() -> None:
    values = np.arange(100.0)
    for whole in range(1, 100):  # 0.29 * 100 < 29 in binary
        assert _level(values, whole / 100) == whole
    assert _level(values[:25], 0.1) == 2


def test_a_cross_fit_takes_the_level_of_the_other_groups() -> None:
    run, groups = scored(), {name: n % 2 for n, name in enumerate(NAMES)}
    found = refer(run, None, share=0.3, groups=groups)
    confidence = case_confidences(run)["soft_dice"]
    for n in range(8):
        level = np.sort(confidence[(n + 1) % 2 :: 2])[1]
        assert found.cases[n] == (confidence[n] < level)
    assert found.level is None
    assert found.below == ((1, 4), (1, 4))
    few = refer(run, None, share=0.3, groups={name: int(n > 4) for n, name in enumerate(NAMES)})
    assert "below which 0 to 1 of 3 to 5 cases" in few.sentence()
    assert "of 3 cases" in few.warning()
