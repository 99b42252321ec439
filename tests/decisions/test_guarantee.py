"""Masks that are promised: nested, calibrated by patients, and what they give on others."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mbls.decisions.guarantee import Guarantee, Promise, guaranteed, places_of
from mbls.decisions.masks import mask_names, promised_masks
from mbls.decisions.nested import Family, nested_masks
from mbls.decisions.outcomes import (
    cross_fitted_places,
    fewest_patients,
    guaranteed_places,
    outcomes,
    tradeoff,
)
from mbls.metrics.margins import MARGINS, margin_mask
from mbls.runtime.errors import DecisionError
from tests.decisions.made import SPACING, UNIONS, run_of, volumes

FAMILIES: tuple[Family, ...] = ("threshold", "margin")


def mask_of(probs: np.ndarray, structure: int, family: Family, value: float) -> np.ndarray:
    """One mask by its definition."""
    share = [probs[1], probs[2], probs[1] + probs[2]][structure]
    if family == "threshold":
        return share > np.float32(value)
    members = [[1], [2], [1, 2]][structure]
    return margin_mask(np.isin(probs.argmax(0), members), SPACING, value)


@pytest.mark.parametrize("family", FAMILIES)
def test_nested_masks_are_counted_as_they_are(family: Family) -> None:
    run = run_of(3)
    nested = nested_masks(run, family)
    probs, label = (each.numpy() for each in volumes(6, 0))
    size = {"threshold": 60, "margin": len(MARGINS)}[family] + 2
    assert nested.counts.shape == (6, 3, size, 2)
    assert (np.diff(nested.counts, axis=2) >= 0).all()
    kept = label >= 0
    for case in (0, 5):
        for s in range(3):
            truth = np.isin(label[case], [[1], [2], [1, 2]][s])
            for k in (1, 5, 21, 31, 60):
                mask = mask_of(probs[case], s, family, nested.values[k]) & kept[case]
                assert nested.counts[case, s, k].tolist() == [(mask & truth).sum(), mask.sum()]
                missed = 1 - (mask & truth).sum() / truth.sum()
                assert nested.missed()[case, s, k] == pytest.approx(missed)
                outside = (mask & ~truth).sum() / max(mask.sum(), 1)
                assert nested.outside()[case, s, k] == pytest.approx(outside)
    assert nested.counts[0, 0, -1].tolist() == [run.dice[0, 1, 2], kept[0].sum()]
    assert (nested.missed()[..., 0] == 1).all()
    assert (nested.missed()[..., -1] == 0).all()
    assert (nested.value(0), nested.value(size - 1)) == (None, None)


def by_hand(shares: np.ndarray, promise: Promise) -> int:
    """The first mask at which the corrected mean loss of the patients is at most the level."""
    means = shares.reshape(-1, 2, shares.shape[-1]).mean(axis=1)  # two cases a patient
    losses = means if promise.alpha is None else means > promise.fnr
    for k in range(shares.shape[-1]):
        if (losses[:, k].sum() + 1) / (len(losses) + 1) <= promise.level + 1e-9:
            return k
    return shares.shape[-1] - 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("promise", [Promise(0.2), Promise(0.1, 0.2), Promise(0.3, 0.1)])
def test_the_mask_is_the_first_whose_risk_is_controlled(family: Family, promise: Promise) -> None:
    run = run_of(12)
    nested = nested_masks(run, family)
    places = places_of(nested, promise, np.ones(24, dtype=bool))
    for s in range(3):
        assert places[s, 0] == by_hand(nested.missed()[:, s], promise)
        outside = nested.outside()[:, s]
        worst = np.stack([outside[:, : k + 1].max(1) for k in range(outside.shape[1])], axis=1)
        losses = worst.reshape(12, 2, -1).mean(1)
        if promise.alpha is None:  # the largest of means is at most the mean of largest ones
            assert places[s, 1] >= outside.shape[1] - 1 - by_hand(worst[:, ::-1], promise)
        inner = losses[:, places[s, 1]]
        risk = inner if promise.alpha is None else inner > promise.fnr
        mean = outside.reshape(12, 2, -1).mean(1)[:, places[s, 1]]
        assert (mean <= inner + 1e-12).all()
        assert promise.alpha is not None or (risk.sum() + 1) / 13 <= promise.level + 0.1
    found = guaranteed(run, nested, promise)
    assert found.structures == ("rv", "myo", "heart")
    assert found.outer["rv"] == nested.value(places[0, 0])
    assert found.inner["heart"] == nested.value(places[2, 1])
    assert found.numbers == {"rv": 12, "myo": 12, "heart": 12}
    assert (found.probabilities, found.grid, found.calibrator) == ("abc", "native", None)


def test_the_inner_mask_has_the_largest_share_of_all_smaller_ones() -> None:
    """The share outside falls where a mask grows into the structure: its maximum never does."""
    run = run_of(9)
    nested = nested_masks(run, "threshold")
    counts = nested.counts.copy()
    counts[:, 0, 1] = [0, 5]  # five voxels that are all wrong
    counts[:, 0, 2:, :] += 5
    found = places_of(replace(nested, counts=counts), Promise(0.2), np.ones(18, dtype=bool))
    assert found[0, 1] == 0  # no voxel, though larger masks would do
    assert places_of(nested, Promise(0.2), np.ones(18, dtype=bool))[0, 1] > 0


def test_patients_without_the_structure_calibrate_the_inner_mask_alone() -> None:
    run = run_of(10)
    nested = nested_masks(run, "threshold")
    counts = nested.counts.copy()
    counts[:8, 0, :, 0] = 0  # four patients
    changed = replace(nested, counts=counts)
    dropped = np.arange(20) >= 8
    every = np.ones(20, dtype=bool)
    promise = Promise(0.3)
    assert places_of(changed, promise, every)[0, 0] == places_of(nested, promise, dropped)[0, 0]
    assert guaranteed(run, changed, promise).numbers["rv"] == 6
    place = places_of(changed, promise, every)[0, 1]  # of their masks any voxel is wrong
    assert place < places_of(nested, promise, every)[0, 1]
    risk = [changed.outside()[:, 0, k].mean() for k in (place, place + 1)]
    assert (10 * risk[0] + 1) / 11 <= 0.3 < (10 * risk[1] + 1) / 11


def test_too_few_patients_promise_all_voxels() -> None:
    run = run_of(8)
    found = guaranteed(run, nested_masks(run, "margin"), Promise(0.1, 0.1))
    assert set(found.outer.values()) == {None}
    assert "rv 8, myo 8, heart 8" in str(found.too_few())
    assert "a level of 0.1 needs 9 with the structure" in str(found.too_few())
    more = run_of(9)
    assert guaranteed(more, nested_masks(more, "margin"), Promise(0.1, 0.1)).too_few() is None


@pytest.mark.parametrize("family", FAMILIES)
def test_outcomes_are_those_of_the_masks_on_other_patients(family: Family) -> None:
    run, promise = run_of(4, first=100), Promise(0.2)
    nested = nested_masks(run, family)
    own = run_of(12)
    found = guaranteed(own, nested_masks(own, family), promise)
    places = guaranteed_places(run, nested, found)
    one = outcomes(run, nested, promise, places)[2]
    probs, label = (each.numpy() for each in volumes(8, 100))
    truth = label > 0
    outer = [mask_of(p, 2, family, found.outer["heart"]) for p in probs] * np.array(label >= 0)
    missed = [1 - (m & t).sum() / t.sum() for m, t in zip(outer, truth, strict=True)]
    each = np.reshape(missed, (4, 2)).mean(1)
    assert one.missed == pytest.approx(each.mean())
    assert one.above[0] == pytest.approx((each > 0.2).mean())
    assert one.to_true == pytest.approx(outer.sum() / truth.sum())
    predicted = (probs.argmax(1) > 0) & (label >= 0)
    assert one.to_argmax == pytest.approx(outer.sum() / predicted.sum())
    assert (one.outer, one.single, one.patients) == (found.outer["heart"], True, 4)
    curve = tradeoff(run, nested, 0.2)["heart"]
    k = places[0, 2, 0] - 1
    assert curve[k].tolist() == pytest.approx([one.to_true, one.missed, one.above[0]])
    with pytest.raises(DecisionError, match="calibrated on 12 of the test patients"):
        guaranteed_places(own, nested_masks(own, family), found)


def test_poisoned_test_labels_change_no_mask() -> None:
    own, test, promise = run_of(12), run_of(4, first=100), Promise(0.2)
    found = guaranteed(own, nested_masks(own, "threshold"), promise)
    nested = nested_masks(test, "threshold")
    poison = replace(nested, counts=np.where([True, False], 0, nested.counts))
    first = guaranteed_places(test, nested, found)
    assert np.array_equal(first, guaranteed_places(test, poison, found))


def test_a_cross_fit_calibrates_each_group_on_the_others() -> None:
    nested = nested_masks(run_of(9), "margin")
    groups = {f"p{n}": n % 3 for n in range(9)}
    found = cross_fitted_places(nested, Promise(0.3), groups)
    own = np.array([groups[patient] for patient in nested.patients])
    for group in range(3):
        expected = places_of(nested, Promise(0.3), own != group)
        assert (found[own == group] == expected).all()
    counts = nested.counts.copy()
    counts[[0, 1, 6, 7, 8], 0, :, 0] = 0  # p0 and p3, both of group 0, and one case of p4
    assert fewest_patients(nested, groups) == [6, 6, 6]
    assert fewest_patients(replace(nested, counts=counts), groups) == [4, 6, 6]


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_of_a_case_are_those_that_were_counted(family: Family, tmp_path: Path) -> None:
    own = run_of(12)
    found = guaranteed(own, nested_masks(own, family), Promise(0.2))
    file = tmp_path / "g.json"
    found.save(file)
    found = Guarantee.load(file)
    probs, _ = volumes(2, 100)
    masks = promised_masks(found, probs[0], unions=UNIONS, spacing=SPACING)
    assert list(masks) == mask_names(found) == [
        f"{which}_{name}" for name in ("rv", "myo", "heart") for which in ("outer", "inner")
    ]  # fmt: skip
    for s, name in enumerate(found.structures):
        for which, value in (("outer", found.outer[name]), ("inner", found.inner[name])):
            expected = mask_of(probs[0].numpy(), s, family, value)
            assert np.array_equal(masks[f"{which}_{name}"], expected)
    none = replace(found, outer=dict.fromkeys(found.outer), inner=dict.fromkeys(found.inner))
    masks = promised_masks(none, probs[0], unions=UNIONS, spacing=SPACING)
    assert masks["outer_rv"].all()
    assert not masks["inner_rv"].any()
    with pytest.raises(DecisionError, match="got probabilities of 3 classes and the unions none"):
        promised_masks(found, probs[0], unions={}, spacing=SPACING)


def test_a_guarantee_is_kept_as_json(tmp_path: Path) -> None:
    own = run_of(12)
    found = guaranteed(own, nested_masks(own, "margin"), Promise(0.2, 0.15))
    assert found.name == "fnr-20-alpha-15-margin"
    file = tmp_path / "g.json"
    found.save(file)
    assert Guarantee.load(file) == found
    content = json.loads(file.read_text())
    wrong = {
        "another format": {"version": 0},
        "family is 'x'": {"family": "x"},
        "values are not those": {"outer": {"rv": 1}},
        "must be numbers": {"inner": dict.fromkeys(found.inner, "all")},
        "FNR": {"promise": {"fnr": 2, "alpha": None}},
    }
    for message, change in wrong.items():
        file.write_text(json.dumps(content | change))
        with pytest.raises(DecisionError, match=rf"no file of a guarantee: .*{message}"):
            Guarantee.load(file)


def test_a_promise_is_checked() -> None:
    with pytest.raises(DecisionError, match=r"ALPHA .* got 1\."):
        Promise(0.1, 1.0)
    assert Promise(0.05).text == "on average at most 5 % of it missed"
    with pytest.raises(DecisionError, match="no counts of margins"):
        nested_masks(replace(run_of(1), margins=None), "margin")


def test_margins_are_kept_with_a_test(tmp_path: Path) -> None:
    run = run_of(2)
    run.save(tmp_path / "bins.npz")
    again = type(run).load(tmp_path / "bins.npz")
    assert np.array_equal(again.margins, run.margins)
    replace(run, margins=None).save(tmp_path / "bins.npz")
    assert type(run).load(tmp_path / "bins.npz").margins is None
