"""Thresholds from the counts of a test equal voxels that are counted one by one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, precision_score, recall_score

from mbls.decisions import (
    THRESHOLDS,
    Target,
    argmax_counts,
    case_scores,
    choose,
    curves_of,
    threshold_counts,
)
from mbls.decisions.choice import Thresholds
from mbls.decisions.comparison import compare, compare_cross_fitted, curve_rows
from mbls.evaluation import TestRun
from mbls.metrics import CalibrationHistogram, DiceScore
from mbls.runtime.errors import DecisionError

UNIONS = {"heart": (1, 2)}
META = {"dataset": "acdc", "origin": "phantom", "class_names": ["background", "RV", "MYO"],
        "class_keys": ["bg", "rv", "myo"]}  # fmt: skip


def volumes(cases: int, *, first: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities, some of them exactly on thresholds, and labels with ignored voxels."""
    generator = torch.Generator().manual_seed(first)
    known = torch.randn(cases, 3, 9, 8, 5, generator=generator).mul(2).softmax(1)
    rows = known.movedim(1, -1).reshape(-1, 3)
    label = torch.multinomial(rows, 1, generator=generator).view(cases, 9, 8, 5)
    probs = (known.log() * 1.7).softmax(1)
    on_edges = (probs * 60).round() / 60
    on_edges[:, 0] = 1 - on_edges[:, 1:].sum(1)
    some = (torch.rand(cases, 1, 9, 8, 5, generator=generator) < 0.3) & (on_edges[:, :1] >= 0)
    label[:, 0] = -100
    label[-1][label[-1] == 2] = 1  # a structure is absent
    return torch.where(some, on_edges, probs), label


def counted(cases: int = 6, *, first: int = 0, **meta: object) -> TestRun:
    probs, label = volumes(cases, first=first)
    histogram = CalibrationHistogram(3, unions=UNIONS, num_cases=cases)
    dice = DiceScore(3, unions=UNIONS, num_cases=cases)
    index = torch.arange(cases)
    histogram.update(probs, label, index=index)
    dice.update(probs, label, index=index)
    names = [f"p{first + n // 2}_{n % 2}" for n in range(cases)]
    patients = [name.partition("_")[0] for name in names]
    return TestRun.of(histogram, dice, cases=names, patients=patients, meta={**META, **meta})


def by_voxels(case: int, structure: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Label and ``p > k/60`` of the labeled voxels of a case."""
    probs, label = (each[case] for each in volumes(6))
    maps = [probs[1], probs[2], probs[1] + probs[2]]
    truths = [label == 1, label == 2, label > 0]
    keep = label >= 0
    threshold = torch.tensor(k / 60, dtype=torch.float32)
    return truths[structure][keep].numpy(), (maps[structure] > threshold)[keep].numpy()


def test_counts_are_those_of_voxels_above_each_threshold() -> None:
    counts = threshold_counts(counted().bins)
    assert counts.shape == (6, 3, 60, 3)
    for case in range(6):
        for structure in range(3):
            for k in range(60):
                truth, found = by_voxels(case, structure, k)
                expected = [(truth & found).sum(), (~truth & found).sum(), (truth & ~found).sum()]
                assert counts[case, structure, k].tolist() == expected, (case, structure, k)


@pytest.mark.parametrize("k", [0, 12, 29, 30, 58])
def test_scores_are_those_of_sklearn(k: int) -> None:
    scores = case_scores(threshold_counts(counted().bins))
    for case in range(5):
        truth, found = by_voxels(case, 0, k)
        pair = {"y_true": truth, "y_pred": found, "zero_division": np.nan}
        assert scores["dice"][case, 0, k] == pytest.approx(f1_score(**pair))
        assert scores["precision"][case, 0, k] == pytest.approx(
            precision_score(**pair), nan_ok=True
        )
        assert scores["recall"][case, 0, k] == pytest.approx(recall_score(**pair))


def test_an_absent_structure_has_no_dice_and_no_recall_but_a_precision() -> None:
    scores = case_scores(threshold_counts(counted().bins))
    assert np.isnan(scores["dice"][-1, 1]).all()
    assert np.isnan(scores["recall"][-1, 1]).all()
    assert scores["precision"][-1, 1, 10] == 0
    run = counted()
    assert np.isnan(case_scores(argmax_counts(run))["dice"][-1, 1])


def test_net_benefit_is_the_formula_of_the_paper() -> None:
    run = counted()
    curve = curves_of(run, pooling="pooled", draws=50)["MYO"]["net_benefit"]
    pairs = [by_voxels(case, 1, 20) for case in range(6)]
    truth, found = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    gain = (truth & found).sum() / len(truth) - (~truth & found).sum() / len(truth) * 0.5
    assert curve.value[20] == pytest.approx(gain)  # t = 1/3: odds of 1/2


def test_false_positives_in_ml_are_voxels_times_their_size() -> None:
    run, size = counted(), np.array([0.5, 0.5, 2, 2, 1, 3]) / 1000
    assert np.isnan(curves_of(run, draws=50)["RV"]["false_positive_ml"].value).all()
    known = replace(run, voxel_ml=size)
    wrong = threshold_counts(run.bins)[:, 0, :, 1]
    for pooling in ("per_case", "pooled"):
        curve = curves_of(known, pooling=pooling, draws=50)["RV"]
        expected = (wrong * size[:, None]).mean(axis=0)
        np.testing.assert_allclose(curve["false_positive_ml"].value, expected)
        np.testing.assert_allclose(curve["false_positives"].value, wrong.mean(axis=0))
        assert (curve["false_positive_ml"].low[:30] < expected[:30]).all()


def test_curves_are_means_of_cases_and_their_intervals_those_of_patients() -> None:
    run = counted()
    curves = curves_of(run, draws=300)
    scores = case_scores(threshold_counts(run.bins))
    for place, name in enumerate(("RV", "MYO", "heart")):
        np.testing.assert_allclose(
            curves[name]["dice"].value, np.nanmean(scores["dice"][:, place], 0)
        )
    curve = curves["RV"]["recall"]
    known = ~np.isnan(curve.low)
    assert known[:50].all()
    assert (curve.low <= curve.value + 1e-12)[known].all()
    assert (curve.value <= curve.high + 1e-12)[known].all()
    assert curves["MYO"]["dice"].n_cases.tolist() == [5] * 60
    one = counted(2)
    assert np.isnan(curves_of(one)["RV"]["dice"].low).all()  # a single patient
    rows = curve_rows(curves, pooling="per_case")
    assert len(rows) == 3 * 6 * 60


@pytest.mark.parametrize(
    ("text", "rule"),
    [("dice", "highest Dice"), ("recall:0.9", "highest threshold"), ("precision:0.6", "lowest")],
)
def test_a_threshold_is_the_best_of_all(text: str, rule: str) -> None:
    run, target = counted(), Target.parse(text)
    chosen = choose(run, target)
    means = np.nanmean(case_scores(threshold_counts(run.bins))[target.measure][:, 0], axis=0)
    expected = {
        "highest Dice": lambda: means.argmax(),
        "highest threshold": lambda: max(np.flatnonzero(means >= 0.9)),
        "lowest": lambda: min(np.flatnonzero(means >= 0.6)),
    }[rule]()
    assert chosen.values["rv"] == THRESHOLDS[expected]
    assert chosen.reached["rv"] == pytest.approx(means[expected])
    assert list(chosen.unions) == ["heart"]
    assert chosen.patients == ("p0", "p1", "p2")


def test_thresholds_are_not_compared_on_patients_that_chose_them() -> None:
    chosen = choose(counted(), Target.parse("dice"))
    assert len(compare(counted(6, first=10), chosen)) == 3
    with pytest.raises(DecisionError, match=r"chosen on 3 of the test patients \(p0, p1, p2\)"):
        compare(counted(), chosen)


def test_a_comparison_is_paired_with_the_predicted_classes() -> None:
    test = counted(6, first=10)
    found = {one.structure: one for one in compare(test, choose(counted(), Target.parse("dice")))}
    place = round(found["RV"].threshold * 60)
    after = case_scores(threshold_counts(test.bins))["dice"][:, 0, place]
    before = case_scores(argmax_counts(test))["dice"][:, 0]
    dice = found["RV"].changes[0]
    assert (dice.before, dice.after) == pytest.approx((before.mean(), after.mean()))
    assert dice.interval[0] <= dice.change <= dice.interval[1]
    assert {row["measure"] for row in found["heart"].rows()} == {"dice", "precision", "recall"}


def test_a_cross_fit_chooses_without_the_own_patient() -> None:
    run = counted()
    target = Target.parse("dice")
    found = compare_cross_fitted(run, target, {"p0": 0, "p1": 1, "p2": 2})
    counts = threshold_counts(run.bins)
    means = []
    for own in range(3):
        others = [n for n in range(6) if n // 2 != own]
        best = np.nanmean(case_scores(counts[others])["dice"][:, 0], axis=0).argmax()
        means += case_scores(counts[[2 * own, 2 * own + 1]])["dice"][:, 0, best].tolist()
    assert found[0].changes[0].after == pytest.approx(np.mean(means))


def test_a_target_that_no_threshold_reaches_is_said() -> None:
    run = counted()
    chosen = choose(run, Target.parse("precision:1"))
    assert chosen.values["myo"] is None
    found = compare(counted(6, first=10), chosen)[1]
    assert (found.threshold, found.changes) == (None, ())
    with pytest.raises(DecisionError, match=r"no threshold for precision:1 of rv, myo"):
        chosen.label_map(torch.rand(1, 3, 4))
    with pytest.raises(DecisionError, match="of the classes bg, c0, got probabilities of 3"):
        made(0.5).label_map(torch.rand(1, 3, 4))


@pytest.mark.parametrize("text", ["f1", "dice:0.5", "recall", "recall:0", "recall:1.5", "recall:x"])
def test_a_target_is_checked(text: str) -> None:
    with pytest.raises(DecisionError, match=r"TARGET .* got '"):
        Target.parse(text)


def made(*values: float) -> Thresholds:
    keys = ("bg", *(f"c{k}" for k in range(len(values))))
    found = dict(zip(keys[1:], values, strict=True))
    return Thresholds("dice", keys, found, {}, {}, (), ())


def test_a_label_map_takes_the_class_that_is_furthest_above_its_threshold() -> None:
    probs = torch.tensor([[0.5, 0.3, 0.2], [0.4, 0.35, 0.25], [0.8, 0.1, 0.1], [0.0, 0.9, 0.1]])
    label = made(0.2, 0.1).label_map(probs.T[None])
    assert label.tolist() == [[2, 2, 0, 1]]  # 1.5 and 2; 1.75 and 2.5; neither; 4.5 and 1 (not > t)
    assert made(0.0, 0.5).label_map(probs.T[None]).tolist() == [[1, 1, 1, 1]]


def test_a_label_map_of_one_class_is_what_was_counted() -> None:
    probs = torch.rand(1, 1, 4000)
    probs[..., :60] = torch.arange(60) / 60  # exactly on the thresholds
    probs = torch.cat([1 - probs, probs], dim=1)
    label = torch.ones(1, 4000, dtype=torch.int64)
    histogram = CalibrationHistogram(2, num_cases=1)
    histogram.update(probs, label, index=torch.tensor([0]))
    counts = threshold_counts(histogram.bins())[0, 0]
    for k in range(60):
        assert int(made(k / 60).label_map(probs).sum()) == counts[k, 0], k
        assert torch.equal(made(k / 60).label_map(probs), made(k / 60).label_map(probs.double()))


def test_thresholds_are_kept_as_json(tmp_path: Path) -> None:
    chosen = choose(counted(), Target.parse("recall:0.95"))
    file = tmp_path / "decisions" / f"{chosen.name}.json"
    chosen.save(file)
    assert file.name == "recall-95.json"
    assert Thresholds.load(file) == chosen
    for text in ("", "{}", file.read_text().replace("mbls thresholds", "x"), "[1]"):
        file.write_text(text)
        with pytest.raises(DecisionError, match="no file of thresholds"):
            Thresholds.load(file)
