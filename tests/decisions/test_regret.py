"""Masks scored against drawn labels, and what is lost by network, calibration and decision."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.isotonic import IsotonicRegression

from datamodules import ACDCDataModule
from mbls.decisions import optimal_dice
from mbls.decisions.levels import CELLS, Levels, calibrated_mass, count_levels
from mbls.decisions.regret import (
    MEAN,
    PARTS,
    dice_of_rules,
    regrets,
    volume_errors,
)
from mbls.decisions.widths import quantiles, width_scores

SHAPE = (20, 18, 5)


def drawn_case(seed: int, *, structures: int = 2, number: int = 12):
    """Return true probabilities ``(C, *S)`` and labels of independent voxels."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(size=(structures + 1, *SHAPE)) * 2
    odds[0] += 2
    posterior = np.exp(odds) / np.exp(odds).sum(axis=0)
    borders = posterior.cumsum(axis=0)
    labels = (rng.random((number, 1, *SHAPE)) > borders[:-1]).sum(axis=1)
    return posterior, labels.astype(np.uint8)


def distorted(posterior: np.ndarray, power: float) -> np.ndarray:
    """Return probabilities sharpened by a power."""
    return posterior**power / (posterior**power).sum(axis=0)


def plain_dice(mask: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean Dice over labels that have the structure."""
    found = [
        2 * (mask & label).sum() / (mask.sum() + label.sum()) for label in labels if label.any()
    ]
    return float(np.mean(found)) if found else np.nan


def everything_known() -> np.ndarray:
    return np.ones(SHAPE, dtype=bool)


def test_levels_are_those_of_the_masks_themselves() -> None:
    posterior, labels = drawn_case(0)
    probs = distorted(posterior, 1.6)
    levels = count_levels(probs, posterior, labels, everything_known())
    assert levels.voxels.sum(-1).tolist() == [[posterior[0].size] * 2]
    for k in (1, 2):
        own = np.log(probs[k] / (1 - probs[k]))
        dice = levels.dice(0)[:, k - 1].mean(0)
        for cell in (100, 260, 300, 330):
            mask = own >= -14 + cell * 28 / CELLS
            assert dice[cell] == pytest.approx(plain_dice(mask, labels == k), abs=1e-12)
        mask = probs.argmax(0) == k
        assert levels.likeliest_dice()[0, :, k - 1].mean() == pytest.approx(
            plain_dice(mask, labels == k), abs=1e-12
        )
        assert levels.probs[0, k - 1].sum() == pytest.approx(probs[k].sum())
        assert levels.truth[0, k - 1].sum() == pytest.approx(posterior[k].sum())


def test_ignored_voxels_are_not_counted() -> None:
    posterior, labels = drawn_case(1)
    known = np.random.default_rng(0).random(SHAPE) < 0.5
    levels = count_levels(posterior, posterior, labels, known)
    again = count_levels(
        posterior[:, known][..., None, None], posterior[:, known][..., None, None],
        labels[:, known][..., None, None], np.ones((known.sum(), 1, 1), dtype=bool),
    )  # fmt: skip
    for name, array in vars(levels).items():
        assert np.array_equal(array, getattr(again, name)), name


def test_certain_probabilities_are_in_the_cells_at_the_ends() -> None:
    sure = np.zeros((2, 4, 1, 1))
    sure[1, :2], sure[0, 2:] = 1, 1
    levels = count_levels(sure, sure, (sure[1:] > 0).astype(np.uint8), np.ones((4, 1, 1), bool))
    assert levels.voxels[0, 0, [0, -1]].tolist() == [2, 2]
    rules = dice_of_rules(levels, levels)
    assert all(values.tolist() == [[1.0]] for name, values in rules.items() if name != "best")


def test_own_masks_are_the_dice_optimal_ones() -> None:
    posterior, labels = drawn_case(2)
    probs = distorted(posterior, 0.6)
    levels = count_levels(probs, posterior, labels, everything_known())
    thresholds = optimal_dice(torch.from_numpy(probs[None, 1:]))[0].numpy() / 2
    rules = dice_of_rules(levels, levels)
    for k, threshold in enumerate(thresholds, 1):
        exact = plain_dice(probs[k] > threshold, labels == k)
        assert rules["own"][0, k - 1] == pytest.approx(exact, abs=3e-3)  # to a cell


def test_calibration_is_isotonic_regression_of_the_truth() -> None:
    cases = [drawn_case(seed) for seed in (3, 4)]
    own = Levels.joined([
        count_levels(distorted(q, 2), q, labels, everything_known()) for q, labels in cases
    ])  # fmt: skip
    voxels, truth = own.voxels.sum(0)[0], own.truth.sum(0)[0]
    seen = voxels > 0
    fitted = IsotonicRegression().fit_transform(
        np.flatnonzero(seen), truth[seen] / voxels[seen], sample_weight=voxels[seen]
    )
    mass = calibrated_mass(own)
    np.testing.assert_allclose(mass.sum(0)[0][seen] / voxels[seen], fitted, atol=1e-9)
    np.testing.assert_allclose(mass.sum((0, 2)), own.truth.sum((0, 2)))  # calibrated in the large


def test_parts_sum_to_the_total_and_are_where_the_fault_is() -> None:
    """Distorted probabilities of a perfect network lose by calibration and decision alone."""
    cases = [drawn_case(seed, number=40) for seed in range(6)]
    true, own = (
        Levels.joined([
            count_levels(distorted(q, power), q, labels, everything_known()) for q, labels in cases
        ])
        for power in (1, 3)
    )  # fmt: skip
    patients = ["a", "a", "b", "c", "d", "e"]
    found = {
        (t.quantity, t.structure, t.name): t
        for t in regrets(true, own, structures=["x", "y"], patients=patients)
    }
    for quantity in ("dice", "volume"):
        for structure in ("x", "y", MEAN):
            values = {n: found[quantity, structure, n].value for n in (*PARTS, "total")}
            assert sum(values[n] for n in PARTS) == pytest.approx(values["total"])
    for structure in ("x", "y"):
        assert abs(found["dice", structure, "network"].value) < 0.004
        assert found["dice", structure, "calibration"].value > 0.008
        assert found["volume", structure, "network"].value < 0.01
        assert found["volume", structure, "calibration"].value > 0.08
        total = found["dice", structure, "total"]
        assert total.interval is not None
        assert total.interval[0] < total.value < total.interval[1]
        assert total.n_cases == 6
    same = {
        (t.quantity, t.structure, t.name): t
        for t in regrets(true, true, structures=["x", "y"], patients=patients)
    }
    assert same["dice", "x", "calibration"].value == pytest.approx(0, abs=2e-3)
    assert same["dice", "x", "network"].value == pytest.approx(0, abs=2e-3)
    assert same["dice", "x", "decision"].value > 0.01  # probabilities are right, argmax is not
    assert same["volume", "x", "calibration"].value == pytest.approx(0, abs=1e-3)


def test_an_absent_structure_and_a_single_patient() -> None:
    posterior, labels = drawn_case(5)
    posterior = np.concatenate([posterior, np.zeros_like(posterior[:1])])
    levels = count_levels(posterior, posterior, labels, everything_known())
    assert np.isnan(dice_of_rules(levels, levels)["argmax"][0, 2])
    assert np.isnan(volume_errors(levels)["own"][0, 2])
    terms = regrets(levels, levels, structures=["x", "y", "none"], patients=["a"])
    mean = {t.name: t for t in terms if (t.quantity, t.structure) == ("dice", MEAN)}
    own = [t.value for t in terms if t.quantity == "dice" and t.name == "own"][:2]
    assert mean["own"].value == pytest.approx(np.mean(own))
    assert mean["own"].interval is None
    (none,) = (t for t in terms if t.row()["structure"] == "none" and t.name == "total"
               and t.quantity == "dice")  # fmt: skip
    assert none.n_cases == 0


def test_dice_optimal_masks_beat_argmax_on_the_phantom(tmp_path: Path) -> None:
    """Of the true posterior, in expected Dice over labels that are drawn from it."""
    data = ACDCDataModule(
        None, phantom_root=tmp_path / "acdc", cache_dir=tmp_path / "cache",
        phantom_patients={"train": 1, "val": 1, "test": 2},
    )  # fmt: skip
    data.prepare(progress=False)
    data.setup("test")
    parts = []
    for batch in data.test_dataloader():
        labels = data.draw_labels(batch["case"][0], 40).numpy()
        q = batch["posterior"][0].numpy()
        parts.append(count_levels(q, q, labels, np.ones(q.shape[1:], dtype=bool)))
    levels = Levels.joined(parts)
    rules = dice_of_rules(levels, levels)
    optimal, likeliest = rules["ceiling"], rules["argmax"]
    assert (optimal > likeliest - 1e-3).all()  # every structure of every case
    assert optimal.mean() > likeliest.mean()
    best = np.array([levels.dice(case).mean(axis=0).max(axis=-1) for case in range(len(optimal))])
    assert (best >= optimal).all()
    assert (best - optimal).mean() < 5e-3  # of the best of all thresholds, chosen on these labels
    assert abs(rules["best"] - optimal).mean() < 1e-2
    assert ((optimal > 0.6) & (optimal < 0.99)).all()


def test_widths_contain_the_drawn_volumes_of_nine_in_ten_patients() -> None:
    cases = [drawn_case(seed, number=40) for seed in range(6)]
    known = everything_known()
    parts = [
        [count_levels(probs(q), q, labels, known) for q, labels in cases]
        for probs in (lambda q: q, lambda q: distorted(q, 0.4))
    ]
    truth, own = map(Levels.joined, parts)
    patients = ["a", "a", "b", "b", "c", "c"]
    scores, names = width_scores(truth, own, patients)
    assert names == ["a", "b", "c"]
    volumes = np.array([[(label == 1).sum() for label in labels] for _, labels in cases])
    expected = np.array([q[1].sum() for q, _ in cases])
    error = np.abs(volumes - expected[:, None]) / expected[:, None]
    assert scores["ceiling"][0, :, 0] == pytest.approx(error[:2].max(axis=0))
    (width,) = quantiles(scores["ceiling"], np.ones((1, 3)))
    inside = (scores["ceiling"] <= width).mean(axis=(0, 1))
    assert ((inside >= 0.9) & (inside < 0.9 + 2 / 120)).all()
    terms = {
        t.name: t
        for t in regrets(truth, own, structures=["x", "y"], patients=patients)
        if (t.quantity, t.structure) == ("width", MEAN)
    }
    assert terms["own"].value > terms["ceiling"].value  # flattened probabilities
    assert terms["total"].value == pytest.approx(sum(terms[name].value for name in PARTS))
    assert terms["total"].value == pytest.approx(terms["argmax"].value - terms["ceiling"].value)
    low, high = terms["own"].interval
    assert low <= terms["own"].value <= high
